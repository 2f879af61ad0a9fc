"""minillm: language models with every gradient written by hand.

The names below, and the models of the registry (models/architectures.py), are loaded when they are
first used, so that `import minillm` costs next to nothing.
"""

from importlib import import_module

from minillm.version import __version__ as __version__

_HOMES = {
    "AdamW": "minillm.optim",
    "Adam": "minillm.optim",
    "Optimizer": "minillm.optim",
    "SGD": "minillm.optim",
    "Lion": "minillm.optim",
    "Muon": "minillm.optim",
    "Layer": "minillm.layers.layer",
    "Linear": "minillm.layers.linear",
    "Parameter": "minillm.layers.layer",
    "export": "minillm.pretrained.export",
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


def __getattr__(name: str):
    if name == "__all__":
        return __dir__()
    if name in _HOMES:
        module = import_module(_HOMES[name])
    elif name[:1].isupper():  # a class of the registry
        module = import_module("minillm.models")
    else:
        module = None
    if not hasattr(module, name):
        raise AttributeError(f"module 'minillm' has no attribute {name!r}")
    globals()[name] = value = getattr(module, name)
    return value


def __dir__():
    return ["__version__", *sorted([*_HOMES, *import_module("minillm.models").__all__])]
