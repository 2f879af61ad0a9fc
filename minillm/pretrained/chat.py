"""Conversations with models that were trained for them: the model's own template turns messages into the text it knows.

The template is a program in the language of jinja2, written by whoever made the model. It runs in jinja2's sandbox, in which it
can reach nothing but the messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minillm.errors import MissingExtra, UserError
from minillm.files import read_json, read_text
from minillm.pretrained import model_chain
from minillm.pretrained.gguf import is_gguf, open_gguf
from minillm.tokenizers.tokenizer import CONFIG_FILE


@dataclass(frozen=True)
class Chat:
    """A model's template, and the texts of its tokens BOS and EOS."""

    template: str
    bos: str
    eos: str

    def prompt(self, messages: list[dict[str, str]]) -> str:
        """The text to continue from, for messages such as {"role": "user", "content": "Hello"}. Raises UserError where the
        template refuses them."""
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise MissingExtra("a conversation", "the package jinja2", "gguf") from None

        def refuse(message):
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        try:
            return environment.from_string(self.template).render(
                messages=messages, add_generation_prompt=True, bos_token=self.bos, eos_token=self.eos
            )
        except TemplateError as error:
            raise UserError(f"the model's chat template cannot be used: {error}") from None

    def encode(self, tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], int | None]:
        """The ids of the prompt, and the id that ends the answer (None if the tokenizer has none)."""
        ids = tokenizer.encode(self.prompt(messages), allowed_special="all", add_special_tokens=False)
        return ids, tokenizer.special_tokens.get(self.eos, getattr(tokenizer, "eos", None))


def chat_of(source: str | Path, revision: str | None = None) -> Chat:
    """The template of a GGUF file, or of a folder or hub model as `from_pretrained` opens it; an adapter without one has its
    model's. Raises UserError for a model without one."""
    for path in model_chain(source, revision):
        template = bos = eos = None
        if path.is_dir():
            template, bos, eos = _from_folder(path)
        elif is_gguf(path):
            template, bos, eos = _from_gguf(path)
        if isinstance(template, str):
            return Chat(template, bos or "", eos or "")
    raise UserError(f"{source} has no chat template: it was not made for conversations; leave out --chat")


def _from_gguf(path: Path):
    file = open_gguf(path)
    if "tokenizer.chat_template" not in file.settings:
        return None, None, None
    tokens = file.setting("tokenizer.ggml.tokens", list)
    ids = [file.settings.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")]
    texts = [tokens[i] if isinstance(i, int) and 0 <= i < len(tokens) else "" for i in ids]
    return file.settings.get("tokenizer.chat_template"), *texts


def _from_folder(folder: Path):
    path = folder / CONFIG_FILE
    contents = read_json(path) if path.is_file() else {}
    texts = [contents.get(f"{name}_token") for name in ("bos", "eos")]
    texts = [text.get("content") if isinstance(text, dict) else text for text in texts]
    template, alone = contents.get("chat_template"), folder / "chat_template.jinja"
    if alone.is_file():
        template = read_text(alone)
    return template, *texts
