"""An architecture is described once: no other part of the package names its classes or compares its name."""

import ast
from pathlib import Path

import pytest

import minillm
from minillm.models.architectures import ARCHITECTURES, architecture_of, config_from_dict, config_to_dict

PACKAGE = Path(minillm.__file__).parent
CLASSES = {cls.__name__ for kind in ARCHITECTURES.values() for cls in (kind, kind.config_class)}
CLASSES |= {"ResidualBlock", "LlamaBlock", "LlamaBody", "Transformer"}
# "gpt2" and "llama" are also names of tokenizers: of a pattern, and of a kind in GGUF files
TOKENIZERS = ("tokenizers/", "pretrained/gguf_tokenizer.py")


def comparisons_by_name(source: str, place: str = "") -> list[str]:
    """The expressions that depend on the architecture of a model, by its class or by its name."""
    in_tokenizers, in_models = place.startswith(TOKENIZERS), place.startswith("models/")
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("isinstance", "issubclass"):
            kinds = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
            kinds |= {name.attr for name in ast.walk(node.args[1]) if isinstance(name, ast.Attribute)}
            is_wrong = kinds & CLASSES
        elif isinstance(node, ast.Compare):
            texts = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            is_wrong = not in_tokenizers and (names & CLASSES or texts & ARCHITECTURES.keys())
        else:
            is_wrong = not in_models and isinstance(node, ast.Constant) and node.value in CLASSES
        if is_wrong:
            found.append(ast.unparse(node))
    return found


def test_no_module_compares_names_of_architectures():
    wrong = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if found := comparisons_by_name(path.read_text("utf-8"), place):
            wrong[place] = found
    assert wrong == {}


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(model, GPT2)",
        "isinstance(model, (Mine, llama.Llama))",
        "issubclass(kind, LlamaConfig)",
        "kind == 'llama'",
        "'gpt2' != preset.architecture",
        "type(model) is GPT2",
        "model.model_type in ('gpt2', 'other')",
        "TABLE = {'LlamaBlock': 6}",
    ],
)
def test_the_check_bites(source):
    assert comparisons_by_name(source)


def test_a_configuration_is_stored_and_read_back():
    for model_type, kind in ARCHITECTURES.items():
        config = kind.config_class(n_layer=2)
        assert architecture_of(config) is kind
        assert config_to_dict(config)["model_type"] == model_type
        assert config_from_dict(config_to_dict(config)) == config


def test_runs_of_former_versions_open():
    fields = {"model_type": "llama", "n_head": 4, "d_model": 32, "head_width": 6}
    assert config_from_dict(fields) == minillm.LlamaConfig(n_head=4, d_model=32, head_dim=6)


def test_every_class_is_a_name_of_the_package():
    for kind in ARCHITECTURES.values():
        for cls in (kind, kind.config_class):
            assert getattr(minillm, cls.__name__) is cls and cls.__name__ in dir(minillm)
    names = {}
    exec("from minillm import *", names)
    assert names["Llama"] is minillm.Llama and names["AdamW"] is minillm.AdamW
    for missing in ("Nothing", "nothing"):
        with pytest.raises(AttributeError, match=f"no attribute '{missing}'"):
            getattr(minillm, missing)
