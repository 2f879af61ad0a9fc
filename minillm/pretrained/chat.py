"""Chat models: the model's own template turns messages into the text that it was trained on.

    [{"role": "user", "content": "Hi"}]   ->   "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"   ->   ids

The template writes the complete input, BOS included. So its text is encoded without additions, and
control tokens in it become their ids, including those typed by a user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minillm.data.special import refuse_tokens, special_tokens
from minillm.errors import UserError
from minillm.pretrained import model_chain
from minillm.pretrained.chat_files import DEFAULT, folder_names, folder_templates, gguf_names, gguf_templates
from minillm.pretrained.chat_rendering import render
from minillm.pretrained.gguf import is_gguf

QUESTION, ANSWER = "Question", "Answer 7351"  # a conversation that shows what a template writes after an answer


@dataclass(frozen=True)
class Chat:
    """A model's template, the texts of its tokens BOS and EOS ("" if it has none), and its other
    special tokens by name.
    """

    template: str
    bos: str = ""
    eos: str = ""
    others: dict[str, str] = field(default_factory=dict)

    def prompt(self, messages: list[dict], add_generation_prompt: bool = True, more: Mapping = {}) -> str:
        """The text to continue from, for messages such as {"role": "user", "content": "Hello"}.

        more: further variables of the template, such as tools. Raises UserError where the template
        refuses them, or fails.
        """
        return render(self.template, messages, self.names, add_generation_prompt, more)

    @property
    def names(self) -> dict[str, str]:
        """The special tokens that the template knows by name."""
        named = {name: text for name, text in (("bos_token", self.bos), ("eos_token", self.eos)) if text}
        return {**self.others, **named}

    def encode(self, tokenizer, messages: list[dict]) -> tuple[list[int], int | None]:
        """The ids of the prompt, and the id of the model's EOS (None if the tokenizer has none)."""
        return encode_text(tokenizer, self.prompt(messages)), special_tokens(tokenizer).get(self.eos)

    def end_of_turn(self, tokenizer) -> int | None:
        """The id of the control token that the template writes after an answer; None if it writes
        none, or takes no answer.
        """
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
        try:
            text = self.prompt(messages, add_generation_prompt=False)
        except UserError:  # the question will be refused as well, or the template needs other messages
            return None
        _, answer, rest = text.rpartition(ANSWER)
        rest = rest.lstrip()
        special = special_tokens(tokenizer)
        found = [token for token in special if token and rest.startswith(token)] if answer else []
        return special[max(found, key=len)] if found else None

    def answer_ends(self, tokenizer) -> set[int]:
        """The ids that end an answer: EOS, and the control token that the template writes after
        one.
        """
        return {special_tokens(tokenizer).get(self.eos), self.end_of_turn(tokenizer)} - {None}

    def end_text(self, tokenizer) -> str | None:
        """The text that the template writes after an answer, where it writes no token EOS or
        control token there: with a vocabulary that has none. A space alone is no such text.
        """
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
        try:
            text = self.prompt(messages, add_generation_prompt=False)
        except UserError:
            return None
        _, answer, rest = text.rpartition(ANSWER)
        has_token = any(token and token in rest for token in special_tokens(tokenizer))
        return rest if answer and rest.strip(" ") and not has_token else None


def encode_text(tokenizer, text: str) -> list[int]:
    """The ids of the text that a template makes: nothing is added, and special tokens in it become
    their ids.
    """
    if not special_tokens(tokenizer):
        return tokenizer.encode(text)
    return tokenizer.encode(text, allowed_special="all", add_special_tokens=False)


def ask(
    source: str | Path,
    tokenizer,
    question: str,
    revision: str | None = None,
    name: str | None = None,
    special: str = "",
) -> tuple[list[int], set[int]]:
    """(ids of the prompt for a question, ids that end the answer).

    special: "refuse" raises UserError if the question contains a special token. Otherwise special
    tokens in a question become tokens, because the template is encoded with special tokens.
    """
    if special == "refuse":
        refuse_tokens(tokenizer, question)
    chat = chat_of(source, revision, name)
    ids, _ = chat.encode(tokenizer, [{"role": "user", "content": question}])
    if not ids:
        raise UserError(f"{source}: its chat template makes no text of the question")
    return ids, chat.answer_ends(tokenizer)


def chat_of(source: str | Path, revision: str | None = None, name: str | None = None) -> Chat:
    """The template of a GGUF file, or of a folder or hub model as `from_pretrained` opens it; an
    adapter without one has its model's.

    name: which of several templates, by default the one named "default". Raises UserError for a
    model without a template, and for an unknown name.
    """
    templates, names = _templates_of(source, revision)
    template = _chosen(templates, name, source)
    bos, eos = (names.pop(token) if names.get(token) else "" for token in ("bos_token", "eos_token"))
    return Chat(template, bos, eos, names)


def has_template(source: str | Path, revision: str | None = None) -> bool:
    """Whether a model has a chat template."""
    return bool(_templates_of(source, revision)[0])


def _templates_of(source: str | Path, revision: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """(templates by name, names of special tokens): those of the first in the chain that has
    templates.
    """
    templates, names = {}, {}
    for path in model_chain(source, revision):
        if path.is_dir():
            templates, names = folder_templates(path), folder_names(path)
        elif is_gguf(path):
            templates, names = gguf_templates(path), gguf_names(path)
        if templates:
            break
    return templates, names


def _chosen(templates: dict[str, str], name: str | None, source) -> str:
    if not templates:
        raise UserError(
            f"{source} has no chat template: it was not made for conversations; minillm generate without --chat lets it "
            f"write on from a text, and minillm train --init {source} --chat-data FILE.jsonl teaches it to answer"
        )
    if (name or DEFAULT) in templates:
        return templates[name or DEFAULT]
    missing = f'no chat template named "{name}"' if name else "several chat templates and no default"
    raise UserError(f"{source} has {missing}: choose one with --chat-template: {', '.join(sorted(templates))}")
