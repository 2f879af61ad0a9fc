"""The messages of a conversation as JSON: what a file may look like, and what a message has to be.

    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    {"messages": [{"role": "user", ...}, ...]}          a request to OpenAI's API, or one line of
                                                        data for fine-tuning (JSON lines)
    {"role": "user", "content": "Hi"}                   JSON lines, a message each
    {"conversations": [{"from": "human", ...}, ...]}    what else `train --chat-data` reads, in lines
                                                        or in one array (data/conversations.py)

Sources: OpenAI, API reference, "Chat Completions"; Hugging Face, "Chat templates". A content is a
text, or a list of parts such as {"type": "text", "text": "Hi"}; further fields of a message are
kept, since the template may use them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minillm.data.conversations import fields_of_messages, messages_in
from minillm.data.json_lines import kind_of_json
from minillm.errors import UserError
from minillm.files.atomic import read_text, write_atomically

FORM = '[{"role": "user", "content": "Hi"}, ...] or {"messages": [...]}'


class Loaded(NamedTuple):
    """A conversation of a file that holds `count` of them. unused: names of what else the file has
    to say of it, such as tools.
    """

    messages: list[dict]
    count: int
    unused: list[str]


def read_messages(path: str | Path, number: int = 1) -> Loaded:
    """The conversation in a file; of JSON lines that of line `number`, empty lines not counted, and
    of an array of conversations that of entry `number`.

    Raises OSError where the file cannot be read, and UserError, naming file and line, where it
    holds something else.
    """
    text = read_text(path)
    documents = [(line, at) for at, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if len(documents) > 1 and isinstance(first := _parsed_or_none(documents[0][0]), (dict, list)):
        if "role" in first:
            messages = [_parsed(line, f"{path}, line {at}") for line, at in documents]
            return Loaded(checked_messages(messages, f"{path}: "), 1, [])
        line, at = _one_of(documents, path, number)
        return _conversation(_parsed(line, f"{path}, line {at}"), f"{path}, line {at}", len(documents))
    document = _parsed(text, str(path))
    if isinstance(document, list) and document and all(map(_holds_messages, document)):
        return _conversation(_one_of(document, path, number), f"{path}, entry {number}", len(document))
    if number > 1:
        raise UserError(f"{path} holds one conversation: there is no number {number:,}")
    return _conversation(document, str(path), 1)


def write_messages(path: str | Path, messages: list[dict]) -> None:
    """Write a list of messages as JSON; where the name ends with .jsonl, as one line of data for
    fine-tuning. The file is there whole or not at all.
    """
    if Path(path).suffix == ".jsonl":
        text = json.dumps({"messages": messages}, ensure_ascii=False)
    else:
        text = json.dumps(messages, ensure_ascii=False, indent=2)
    write_atomically(path, (text + "\n").encode("utf-8"))


def checked_messages(messages: Sequence[dict], where: str = "") -> list[dict]:
    """The messages as a list of dicts of their own. Raises UserError, naming the message, for what
    is none.
    """
    if not isinstance(messages, (list, tuple)):
        raise UserError(f"{where}a conversation is a list of messages: {FORM}, not {kind_of_json(messages)}")
    for number, message in enumerate(messages, start=1):
        if problem := _problem(message):
            raise UserError(f"{where}message {number} {problem}")
    return [dict(message) for message in messages]


def _problem(message) -> str | None:
    """What is wrong with a message; None where nothing is."""
    if not isinstance(message, dict):
        return f"is {kind_of_json(message)}: expected an object with role and content"
    role, content = message.get("role"), message.get("content")
    if not (isinstance(role, str) and role):
        has = ", ".join(message) or "nothing"
        return f"has no role (it has {has})" if role is None else f"has the role {role!r:.40}: expected a text"
    if content is None:
        more = {name for name, value in message.items() if value is not None} - {"role"}
        return None if more else f"({role}) has no content"  # such as tool_calls
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return None
    return None if isinstance(content, str) else f"({role}) has {kind_of_json(content)} for content: expected a text"


def _one_of(documents: list, path, number: int):
    if number > len(documents):
        raise UserError(f"{path} holds {len(documents):,} conversations: there is no number {number:,}")
    return documents[number - 1]


def _holds_messages(document) -> bool:
    return isinstance(document, dict) and bool(fields_of_messages(document))


def _conversation(document, where: str, count: int) -> Loaded:
    messages, unused = document, []
    if isinstance(document, dict):
        fields = fields_of_messages(document)
        if not fields:
            has = ", ".join(map(str, document)) or "nothing"
            raise UserError(f"{where} holds no messages, but {has:.80}: expected {FORM}")
        messages = document["messages"] if fields == ("messages",) else messages_in(where, document)
        unused = sorted(document.keys() - {*fields, *([] if fields == ("messages",) else ["system"])})
    return Loaded(checked_messages(messages, f"{where}: "), count, unused)


def _parsed(text: str, where: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: too deep
        raise UserError(f"{where} is not valid JSON: {error}") from None


def _parsed_or_none(line: str):
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
