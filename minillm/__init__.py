"""minillm: language models with every gradient written by hand.

The names below are loaded when they are first used, so that `import minillm` costs next to nothing.
"""

from importlib import import_module

from minillm.version import __version__

_HOMES = {
    "AdamW": "minillm.optim",
    "Adam": "minillm.optim",
    "Optimizer": "minillm.optim",
    "SGD": "minillm.optim",
    "Layer": "minillm.layers.layer",
    "Linear": "minillm.layers.linear",
    "Parameter": "minillm.layers.layer",
    "GPT2": "minillm.models",
    "GPT2Config": "minillm.models",
    "Llama": "minillm.models",
    "LlamaConfig": "minillm.models",
    "from_pretrained": "minillm.pretrained",
    "generate": "minillm.generation",
    "gradcheck": "minillm.checks.gradcheck",
    "BytePairTokenizer": "minillm.tokenizers",
    "CharacterTokenizer": "minillm.tokenizers",
    "Sampler": "minillm.sampler",
    "save_parameters": "minillm.models.parameter_files",
    "load_parameters": "minillm.models.parameter_files",
    "use_kernels": "minillm.kernels",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'minillm' has no attribute {name!r}")
    module = import_module(_HOMES[name])
    globals()[name] = value = getattr(module, name)
    return value


def __dir__():
    return __all__
