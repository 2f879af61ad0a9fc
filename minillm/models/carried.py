"""What a model's folder says beside weights and vocabulary, carried over to the models that are
made of it.

ids             config.json: which ids begin and end a text, and fill a batch up
generation      generation_config.json: how its makers let it write
templates       chat templates by name, "default" for the one that has none
tokenizer       tokenizer_config.json: names of special tokens, and what else is there

Templates are written as `transformers` writes them since 4.50: chat_template.jinja,
additional_chat_templates/NAME.jinja.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from minillm.files.atomic import read_json, write_atomically

DEFAULT_TEMPLATE, TEMPLATE_FILE, TEMPLATE_FOLDER = "default", "chat_template.jinja", "additional_chat_templates"
TOKENIZER_CONFIG = "tokenizer_config.json"
FILE_NAME = re.compile(r"[\w][\w.-]*")
# of the files of the tokenizer that was read; what they mean, the tokenizer itself writes into its
# new files
OF_THE_FILES = {
    "add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "auto_map", "backend", "chat_template",
    "is_local", "legacy", "merges_file", "name_or_path", "sp_model_kwargs", "special_tokens_map_file", "tokenizer_class",
    "tokenizer_file", "vocab_file",
}  # fmt: skip


@dataclass(frozen=True)
class Carried:
    """All of it; what the source did not say is empty."""

    ids: dict[str, int | list[int]] = field(default_factory=dict)
    generation: dict = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)

    def over(self, base: Carried) -> Carried:
        """This, and of `base` what is not said here."""
        return Carried(
            {**base.ids, **self.ids},
            {**base.generation, **self.generation},
            self.templates or base.templates,
            {**base.tokenizer, **self.tokenizer},
        )

    def generation_config(self, context_length: int) -> dict:
        """The contents of generation_config.json for a model of that context."""
        settings = self.generation or {"do_sample": True, "max_length": context_length}
        longest = settings.get("max_length")
        if isinstance(longest, int) and longest > context_length:
            settings = {**settings, "max_length": context_length}
        return {**self.ids, **settings}

    def write_templates(self, folder: Path) -> None:
        """chat_template.jinja, and a file for each template that has a name."""
        for name, text in self.templates.items():
            path = folder / TEMPLATE_FILE
            if name != DEFAULT_TEMPLATE:
                path = folder / TEMPLATE_FOLDER / f"{name}.jinja"
                path.parent.mkdir(exist_ok=True)
            write_atomically(path, text.encode("utf-8"))

    def write_tokenizer_config(self, folder: Path) -> None:
        """Add to the tokenizer_config.json of a tokenizer that was saved in `folder`; names are
        those of the source.
        """
        if not self.tokenizer:
            return
        path = folder / TOKENIZER_CONFIG
        written = read_json(path) if path.is_file() else {}
        if self.templates:
            written.pop("chat_template", None)  # they have files of their own
        carried = {name: value for name, value in self.tokenizer.items() if name not in OF_THE_FILES}
        text = json.dumps({**written, **carried}, indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode("utf-8"))


NOTHING = Carried()
