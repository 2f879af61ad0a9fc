"""The form of a new run: the settings of `minillm train`, and what the page may give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args, get_origin, get_type_hints

from minillm.data.corpora import CORPORA, load_text
from minillm.errors import UserError
from minillm.files.atomic import write_atomically
from minillm.models.architectures import config_classes, config_from_dict, config_to_dict
from minillm.models.presets import PRESETS
from minillm.optim import OPTIMIZERS, SCHEDULES
from minillm.profiling.memory import DEVICES, estimate, workload_of
from minillm.profiling.memory_advice import advice, format_bytes, memory_of
from minillm.training import SETTING_NAMES, Run, TrainingSettings, start_run
from minillm.training.from_preset import check_model_of_preset, settings_from
from minillm.training.settings import TOKENIZERS
from minillm.training.text_examples import DEFAULT_BYTE_PAIRS
from minillm.web.play.places import inside, is_inside, new_name

OPEN = (  # the settings that are shown at once, in this order; the others are under "more"
    *("tokenizer", "context_length", "n_layer", "n_head", "d_model", "batch_size", "max_steps", "optimizer", "lr"),
    *("dropout", "weight_decay", "eval_interval", "seed"),
)
TEXTUAL = (
    "optimizer",
    "schedule",
    "tokenizer",
    "dtype",
    "special",
    "freeze",
    "activation",
    "extend_with",
)  # any other may name a file
NOT_OF_TEXTS = ("packing", "dpo_beta", "dpo_label_smoothing")  # of runs on other data, which the form does not start
CHOICES = {"optimizer": tuple(OPTIMIZERS), "schedule": SCHEDULES, "tokenizer": TOKENIZERS}
OF_TOKENIZER = ("tokenizer", "vocab_size")  # which a model that is continued from has already
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
LARGEST = 2**53  # whole numbers beyond it are not exact in the page
MOST_LAYERS = 1000
TEXTS = "texts"  # the folder of shortened texts, among the run folders


class Plan(NamedTuple):
    """A run that is to be: start_run's arguments."""

    settings: TrainingSettings
    model: dict
    folder: Path
    device: str
    numbered: bool

    def start(self) -> Run:
        """Make the run folder, and open it."""
        return start_run(self.settings, self.model, self.folder, device=self.device, numbered=self.numbered)


def describe_form(runs: Path) -> dict:
    """What the page makes its form of: fields with their help, presets with their values, texts."""
    kinds = _kinds()
    names = [*OPEN, *(name for name in kinds if name not in OPEN)]
    return {
        "fields": [{"name": name, "open": name in OPEN, **kinds[name].described} for name in names],
        "presets": [{"name": name, **_values_of(name)} for name in PRESETS],
        "corpora": list(CORPORA),
        "texts": _texts(runs),
        "devices": list(DEVICES),
    }


def read_form(runs: Path, arguments: Mapping) -> Plan:
    """The run that the page wants.

    arguments: {"preset", "name", "data", "characters", "init", "device", "settings"}; of the
    settings those alone that differ from the preset's. Raises UserError for what no run can have,
    in the words of `minillm train`, for a place outside of `runs`, and for a run that needs more
    memory than there is.
    """
    settings = arguments.get("settings", {})
    if not isinstance(settings, dict):
        raise UserError("the page sent settings that are no object: reload it")
    given = {name: _read(name, value) for name, value in settings.items()}
    if data := arguments.get("data"):
        given["data"] = [_text(runs, data, arguments.get("characters"))]
    if init := arguments.get("init"):
        given["init"] = str(inside(runs, init))
    preset, device = arguments.get("preset") or None, arguments.get("device", "cpu")
    if not isinstance(preset, (str, type(None))) or device not in DEVICES:
        raise UserError(f"a device is one of {', '.join(DEVICES)}, and a preset has a name")
    check_model_of_preset(given, preset)
    plan = Plan(*settings_from(given, preset), device, numbered=True)
    _refuse_too_large(plan)
    if name := arguments.get("name"):
        return plan._replace(folder=runs / new_name(name), numbered=False)
    return plan._replace(folder=runs / plan.folder)


# ------------------------------------------------------------------------------------------------------------- fields


class Field(NamedTuple):
    """A setting: its type, whether it has several values, and its dataclass field."""

    kind: type
    several: bool
    field: object

    @property
    def described(self) -> dict:
        """As the page needs it."""
        metadata = self.field.metadata
        return {
            "kind": "texts" if self.several else self.kind.__name__,
            "help": metadata["help"],
            "panel": metadata["panel"],
            "choices": CHOICES.get(self.field.name),
            "is_shape": self.field.name not in SETTING_NAMES or self.field.name in OF_TOKENIZER,
        }


@cache
def _kinds() -> dict[str, Field]:
    """All settings of a run and of a model by name, but those that name files, which the page names
    in fields of their own, and those that mean nothing here.
    """
    found: dict[str, Field] = {}
    for settings in (TrainingSettings, *config_classes()):
        hints = get_type_hints(settings)
        for field in fields(settings):
            if field.metadata.get("help") and field.name not in NOT_OF_TEXTS:
                hint = hints[field.name]
                kinds = [kind for kind in get_args(hint) if kind not in (type(None), ...)] or [hint]
                if kinds[0] in KINDS and (kinds[0] is not str or field.name in TEXTUAL):
                    found.setdefault(field.name, Field(kinds[0], get_origin(hint) is tuple, field))
    return found


def _read(name: str, value):
    field = _kinds().get(name)
    if field is None:
        raise UserError(f"{name} is no setting that the page can give")
    if field.several:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise UserError(f"{name} is {value!r}: it must be a list of texts")
        return tuple(value)
    if field.kind is float and type(value) is int and abs(value) <= LARGEST:
        value = float(value)
    if type(value) is not field.kind or (field.kind is int and abs(value) > LARGEST):
        raise UserError(f"{name} is {value!r:.99}: it must be {KINDS[field.kind]}")
    return value


def _values_of(preset: str) -> dict:
    """A preset's summary and all its values, as the form shows them; and for each optimizer the
    values that become others with it.
    """
    settings, model, _ = settings_from({}, preset)
    values = {**config_to_dict(_config(settings, model)), **vars(settings)}
    shown = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if name in _kinds()}
    with_optimizer = {}
    for optimizer in OPTIMIZERS:
        others = vars(settings_from({"optimizer": optimizer}, preset)[0]).items()
        with_optimizer[optimizer] = {name: v for name, v in others if name in _kinds() and v != getattr(settings, name)}
    summary, text = PRESETS[preset].summary, settings.data[0]
    return {"summary": summary, "data": text, "values": shown, "with_optimizer": with_optimizer}


def _config(settings: TrainingSettings, model: Mapping):
    """The configuration, with a vocabulary as large as it is likely to be."""
    return config_from_dict({**model, "vocab_size": settings.vocab_size or DEFAULT_BYTE_PAIRS})


# ------------------------------------------------------------------------------------------------- texts and sizes


def _texts(runs: Path) -> list[str]:
    """The text files among the run folders, two folders deep; no links that lead out of them."""
    found = (path.relative_to(runs).as_posix() for path in [*runs.glob("*.txt"), *runs.glob("*/*.txt")])
    return sorted(name for name in found if is_inside(runs, name))


def _text(runs: Path, name: object, characters: object) -> str:
    """What --data would be given: a corpus, a text among the run folders, or the first characters
    of either.
    """
    is_corpus = isinstance(name, str) and name in CORPORA
    if is_corpus and Path(name).exists():
        raise UserError(f"{name} is a file here, and the page means the corpus: start minillm play in another folder")
    source = name if is_corpus else str(inside(runs, name))
    if characters is None:
        return source
    if not isinstance(characters, int) or isinstance(characters, bool) or not 1 <= characters <= LARGEST:
        raise UserError(f"characters is {characters!r}: it must be a whole number of at least 1")
    text = load_text([source])[:characters].encode()
    path = inside(runs, f"{TEXTS}/{Path(name).stem}-{characters}.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != text:
        write_atomically(path, text)
    return str(path)


def _refuse_too_large(plan: Plan) -> None:
    """Raises UserError for a model that cannot be, or that this machine has no memory for."""
    if plan.settings.init:
        return
    config = _config(plan.settings, plan.model)
    if config.n_layer > MOST_LAYERS:
        raise UserError(f"n_layer is {config.n_layer}: the page trains models of up to {MOST_LAYERS} layers")
    workload = workload_of(plan.settings, config, plan.device)
    needed = estimate(workload).total
    if plan.device != "cuda" and needed > (available := memory_of("cpu").available):
        raise UserError(
            f"this run takes about {format_bytes(needed)} and can have {format_bytes(available)}. "
            f"{advice(workload, available)}"
        )
