"""The record of an architecture: all that the rest of the package needs to know of it.

A model class (gpt2.py, llama.py, ...) sets the attributes below; the methods follow from them, and
a class overrides those that are different for it. Opening and saving model files, memory and FLOP
counts, presets and new tokenizers all ask here, so that a new architecture is one file and its
entry in the registry, architectures.py. docs/adding.md is the recipe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from minillm.backend.arrays import to_host

REQUIRED = object()  # of a GGUF key: the file must have it


@dataclass(frozen=True)
class GGUFKey:
    """Where a GGUF key of an architecture goes: the field of the configuration, the type, and the
    default.

    default: REQUIRED, or None where the configuration's own default is meant.
    """

    field: str
    kind: type
    default: object = REQUIRED


class Architecture:
    """The record of an architecture.

    model_type          the name in config.json and in run folders, "llama"
    display_name        the name in messages, "Llama"
    config_class        the dataclass of its shape
    former_fields       fields of the configuration that older run folders have by another name:
                        that name -> the present one
    body_name           the attribute of the body, which begins the name of each of its parameters
    names               tensors: Hugging Face's name -> GGUF's, without block number and ".weight"

    fields              config.json: our field -> Hugging Face's
    transformers_class  config.json: the class in the library transformers
    defaults            config.json: values of keys that are left out, where they are not our fields' defaults
    nullable            config.json: keys whose null has a meaning of its own, and is not a key left out
    required            config.json: keys that must be there
    aliases             config.json: other names of keys
    computed_tensors    model.safetensors: names of tensors that are no weights but computed, a regular expression

    gguf_name           general.architecture in GGUF files
    gguf_keys           GGUF: key -> GGUFKey
    gguf_extra_keys     GGUF: keys that `config_from_gguf` reads besides
    gguf_extra_tensors  GGUF: tensors that `config_from_gguf` reads
    gguf_moves_rows     GGUF: whether rows of query and key weights were moved to interleaved rotary pairs
    gguf_zero_biases    GGUF: whether a bias that a block lacks, and another has, is zero

    tokenizer_pattern   the pattern of a new byte-pair tokenizer, a name of tokenizers/patterns.py
    end_of_text         the tokens that separate documents in the texts of such models, the usual one first
    """

    model_type: str
    display_name: str
    config_class: type
    former_fields: dict[str, str] = {}
    body_name: str
    names: dict[str, str]

    fields: dict[str, str]
    transformers_class: str
    defaults: dict[str, object] = {}
    nullable: frozenset[str] = frozenset()
    required: tuple[str, ...]
    aliases: dict[str, str] = {}
    computed_tensors = r"(?!)"

    gguf_name: str
    gguf_keys: dict[str, GGUFKey]
    gguf_extra_keys: frozenset[str] = frozenset()
    gguf_extra_tensors: frozenset[str] = frozenset()
    gguf_moves_rows = False
    gguf_zero_biases = False

    tokenizer_pattern = "gpt2"
    end_of_text: tuple[str, ...] = ("<|endoftext|>",)

    # ---------------------------------------------------------------------------------------------------- config.json

    @classmethod
    def config_to_hugging_face(cls, config) -> dict:
        """The contents of config.json."""
        return {
            "model_type": cls.model_type,
            "architectures": [cls.transformers_class],
            **{theirs: getattr(config, ours) for ours, theirs in cls.fields.items()},
            **cls.extra_to_hugging_face(config),
            "bos_token_id": None,
            "eos_token_id": None,
            "initializer_range": cls.initial_std,
            "dtype": "float32",
        }

    @classmethod
    def config_from_hugging_face(cls, contents: dict):
        """The configuration in the contents of a config.json.

        Raises UserError for a model that is not computed here.
        """
        extra = cls.extra_from_hugging_face(contents)  # which refuses what it does not know
        fields = {ours: cls._value(contents, theirs) for ours, theirs in cls.fields.items()}
        given = {ours: value for ours, value in fields.items() if value is not REQUIRED}
        return cls.config_class(**{**given, **extra})

    @classmethod
    def _value(cls, contents: dict, name: str):
        """The value of a key, or its default; REQUIRED where there is none."""
        if contents.get(name) is not None or name in contents and name in cls.nullable:
            return contents[name]
        return cls.defaults.get(name, REQUIRED)

    @classmethod
    def extra_to_hugging_face(cls, config) -> dict:
        """What config.json holds besides `fields`."""
        return {}

    @classmethod
    def extra_from_hugging_face(cls, contents: dict) -> dict:
        """Our fields that are not in `fields`.

        Raises UserError for a key that is not computed, naming it.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------- tensors

    @classmethod
    def full_name(cls, name: str) -> str:
        """The name of a parameter; some files leave out the leading name of the body."""
        return name if name.startswith((f"{cls.body_name}.", "lm_head.")) else f"{cls.body_name}.{name}"

    @classmethod
    def embedding_name(cls) -> str:
        """The parameter that holds the token embeddings."""
        return next(f"{name}.weight" for name, other in cls.names.items() if other == "token_embd")

    @classmethod
    def is_computed(cls, name: str) -> bool:
        """Whether a tensor of a file is no weight, but something that minillm computes."""
        return re.fullmatch(cls.computed_tensors, name) is not None

    @classmethod
    def check_computed(cls, tensor, config) -> None:
        """Raises UserError if a tensor of a file (a StoredTensor) is not what minillm computes in
        its place.
        """

    @classmethod
    def zero_tensors(cls, config) -> dict[str, tuple[int, ...]]:
        """Names and shapes of tensors that the file has, zero, and the model has not."""
        return {}

    def stored_tensors(self) -> dict[str, np.ndarray]:
        """What is written to model.safetensors, on the host."""
        tensors = {name: to_host(parameter.value) for name, parameter in self.parameters().items()}
        return tensors | {name: np.zeros(shape, np.float32) for name, shape in self.zero_tensors(self.config).items()}

    @classmethod
    def heads_of_rows(cls, config) -> dict[str, int]:
        """Query and key projections: their name -> number of heads.

        Their rows depend on the order of rotary pairs.
        """
        return {}

    # ---------------------------------------------------------------------------------------------------------- GGUF

    @classmethod
    def gguf_tensor(cls, name: str) -> str:
        """The GGUF name of a parameter:
        "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight".
        """
        stem, _, suffix = name.rpartition(".")
        if stem in cls.names:
            return f"{cls.names[stem]}.{suffix}"
        parts = stem.split(".")
        number = next(index for index, part in enumerate(parts) if part.isdigit())
        return f"blk.{parts[number]}.{cls.names['.'.join(parts[number + 1 :])]}.{suffix}"

    @classmethod
    def config_from_gguf(cls, file):
        """The configuration in the keys of a GGUF file (pretrained/gguf.py).

        Raises UserError for what is not computed.
        """
        fields = {"vocab_size": file.vocab_size(), "tie_embeddings": "output.weight" not in file}
        for key, place in cls.gguf_keys.items():
            name = f"{cls.gguf_name}.{key}"
            if place.default is REQUIRED:
                fields[place.field] = file.setting(name, place.kind)
            elif place.default is not None or name in file.settings:
                fields[place.field] = file.setting(name, place.kind, place.default)
        return cls.config_class(**{**fields, **cls.extra_from_gguf(file, fields)})

    @classmethod
    def extra_from_gguf(cls, file, fields: dict) -> dict:
        """Our fields that the file says by other means than a plain key.

        fields: those that are known.
        """
        return {}

    @classmethod
    def config_to_gguf(cls, config) -> dict:
        """The keys of a GGUF file for this configuration, and their values."""
        plain = {key: getattr(config, place.field) for key, place in cls.gguf_keys.items()}
        keys = {key: cls.gguf_keys[key].kind(value) for key, value in plain.items() if value is not None}
        return {f"{cls.gguf_name}.{key}": value for key, value in {**keys, **cls.extra_to_gguf(config)}.items()}

    @classmethod
    def extra_to_gguf(cls, config) -> dict:
        """Keys besides the plain ones, without the name of the architecture."""
        return {}

    @classmethod
    def extra_tensors_to_gguf(cls, config) -> dict[str, np.ndarray]:
        """Tensors of a GGUF file that are no parameters."""
        return {}

    @classmethod
    def gguf_refusal(cls, config) -> str | None:
        """What of a configuration GGUF files of this architecture cannot say; None if they say
        all of it.
        """
        return None

    @classmethod
    def gguf_note(cls, config) -> str | None:
        """In what llama.cpp computes something else of a file than minillm; None if it does not."""
        return None


def gguf_has_bias(file, part: str) -> bool:
    """Whether any block has a bias whose name matches `part`, such as "attn_(q|k)"."""
    return any(re.fullmatch(rf"blk\.\d+\.{part}\.bias", name) for name in file.names())
