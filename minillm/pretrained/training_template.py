"""Which chat template a model is fine-tuned with."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import decode_text
from minillm.pretrained.chat import Chat, chat_of, has_template
from minillm.pretrained.plain_template import NAME as PLAIN
from minillm.pretrained.plain_template import plain_chat


def training_chat(source: str | Path, choice: str, tokenizer, revision: str | None = None) -> Chat:
    """The template of the model `source`, or another one.

    choice: "" for the model's own, or the plain one where it has none; "plain"; the name of one of
    the model's templates; or a file that ends in .jinja. revision: of a hub model. Raises UserError
    for a name or a file that does not exist.
    """
    if choice == PLAIN or (not choice and not has_template(source, revision)):
        return plain_chat(tokenizer)
    if choice.endswith(".jinja"):
        plain = plain_chat(tokenizer)
        return Chat(_read(Path(choice)), plain.bos, plain.eos)
    return chat_of(source, revision, choice or None)


def _read(path: Path) -> str:
    try:
        return decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"--chat-template: {path} cannot be read: {error.strerror}") from None
