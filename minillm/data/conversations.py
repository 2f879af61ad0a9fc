"""Conversations in files, as data sets for chat models have them; each becomes messages with roles.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
    {"prompt": "Hi", "completion": "Hello."}

The first form is that of Hugging Face and of OpenAI's files for fine-tuning, with `tools`,
`tool_calls` and `weight`, and before 2024 with `functions` and `function_call`. The second is
ShareGPT's, with `system` and `tools` beside it. The third is TRL's; prompt and completion may also
be lists of messages. `chat_template_kwargs` are arguments of the template. Other fields are not
read.

Source: the data formats of TRL (docs, dataset_formats), OpenAI's reference of fine-tuning files,
and LLaMA-Factory's description of ShareGPT.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from minillm.data.json_lines import kind_of_json, read_objects
from minillm.errors import UserError

ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", ASSISTANT, "tool")
SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": ASSISTANT, "chatgpt": ASSISTANT, "assistant": ASSISTANT,
    "bot": ASSISTANT, "bing": ASSISTANT, "bard": ASSISTANT, "model": ASSISTANT, "observation": "tool", "tool": "tool",
    "function_response": "tool", "function_call": ASSISTANT, "tool_call": ASSISTANT,
}  # fmt: skip
CALLS = ("function_call", "tool_call")  # of ShareGPT: the value is a call in JSON
LISTS = ("messages", "conversations", "conversation")  # where the messages are, in this order
PAIR = ("prompt", "completion")
READ = ("system", "tools", "functions", "chat_template_kwargs", "parallel_tool_calls")


@dataclass(frozen=True)
class Conversation:
    """where: file and line. messages: as a chat template takes them. learned: for each message
    whether it is learned from: those of the assistant, without weight 0. more: further variables of
    the template, tools among them.
    """

    where: str
    messages: list[dict]
    learned: tuple[bool, ...]
    more: dict = field(default_factory=dict)


def read_conversations(paths: Iterable[str | Path]) -> tuple[list[Conversation], Counter]:
    """(the conversations of files in their order, fields that were not read with their counts).

    Raises UserError, naming file, line, message and cure, for the first one that is wrong.
    """
    found, unread = [], Counter()
    for path in paths:
        for where, contents in read_objects(path):
            found.append(conversation_of(where, contents))
            read = {*READ, *fields_of_messages(contents)}
            unread.update(name for name, value in contents.items() if name not in read and value is not None)
    return found, unread


def conversation_of(where: str, contents: dict) -> Conversation:
    """The conversation of one JSON object. Raises UserError."""
    messages = messages_in(where, contents)
    learned = tuple(
        message["role"] == ASSISTANT and _weight(f"{where}: message {number}", message) == 1
        for number, message in enumerate(messages, start=1)
    )
    for message in messages:
        message.pop("weight", None)
    if not any(learned):
        why = "with a weight of 1 " if any(message["role"] == ASSISTANT for message in messages) else ""
        raise UserError(f"{where}: no message of the assistant {why}to learn from: add its answer, or delete the line")
    last = max(number for number, each in enumerate(learned) if each)  # what follows it teaches nothing
    return Conversation(where, messages[: last + 1], learned[: last + 1], _more(where, contents))


def messages_in(where: str, contents: dict) -> list[dict]:
    """The messages of one JSON object in any of the forms, checked. Raises UserError."""
    fields = fields_of_messages(contents)
    if fields == PAIR:
        messages = [
            *_messages_or_text(where, "prompt", contents["prompt"], "user"),
            *_messages_or_text(where, "completion", contents["completion"], ASSISTANT),
        ]
    elif fields:
        messages = messages_of(f"{where}: {fields[0]}", contents[fields[0]])
    else:
        raise UserError(f"{where}: {_without_messages(contents)}")
    if contents.get("system") and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": _text(f"{where}: system", contents["system"])})
    return messages


def _without_messages(contents: dict) -> str:
    if "content" in contents and ("role" in contents or "from" in contents):
        return 'it is one message: write all messages of a conversation in one line, {"messages": [...]}'
    return (
        'it has no conversation: write {"messages": [{"role": "user", "content": ...}, ...]} '
        f"(its fields are {', '.join(map(str, contents)) or 'none'})"
    )


def fields_of_messages(contents: dict) -> tuple[str, ...]:
    """Where the messages of a line are: one of LISTS, or PAIR; empty where there are none."""
    lists = [name for name in LISTS if contents.get(name) is not None]
    return tuple(lists[:1]) or (PAIR if all(contents.get(name) is not None for name in PAIR) else ())


def messages_of(where: str, listed) -> list[dict]:
    """Messages with role and content, checked, from a list of them in either form. Raises
    UserError.
    """
    if isinstance(listed, str):
        raise UserError(f"{where} is a text: write the list of messages itself, not as a text")
    if not isinstance(listed, list) or not listed:
        what = "an empty list" if listed == [] else kind_of_json(listed)
        raise UserError(f"{where} is {what}: it has to be a list of messages")
    return [_message(f"{where}, message {number}", message) for number, message in enumerate(listed, start=1)]


# ----------------------------------------------------------------------------------------------------- one message


def _message(where: str, message) -> dict:
    if not isinstance(message, dict):
        raise UserError(f"{where} is {kind_of_json(message)}: it has to be an object with role and content")
    message = {name: value for name, value in message.items() if value is not None}
    if "from" in message and "role" not in message:
        message = _from_sharegpt(where, message)
    role = message.get("role")
    if role == "function":
        role = message["role"] = "tool"  # OpenAI's name of 2023
    if role not in ROLES:
        known = SHAREGPT_ROLES.get(str(role).lower())
        meant = f"write {known}" if known else f"use one of {', '.join(ROLES)}"
        raise UserError(f"{where}: {'the role is missing' if role is None else f'unknown role {role!r}'}: {meant}")
    calls = _calls(where, message)
    if calls and role != ASSISTANT:
        raise UserError(f"{where}: only the assistant calls tools, not the {role}: move tool_calls to its message")
    if "content" in message:
        message["content"] = _text(f"{where}: content", message["content"])
    if not message.get("content", "").strip() and not calls and role in (ASSISTANT, "user"):
        what = "is empty" if "content" in message else "has no content"
        raise UserError(f"{where} (of the {role}) {what}: write what is said, or delete the line")
    return {"content": "", **message} if role == ASSISTANT and not calls else message


def _from_sharegpt(where: str, message: dict) -> dict:
    """A message with from and value in the other form."""
    role = SHAREGPT_ROLES.get(str(message["from"]).lower())
    if role is None:
        raise UserError(f'{where}: unknown "from", {message["from"]!r}: use human, gpt or system')
    rest = {name: value for name, value in message.items() if name not in ("from", "value")}
    value = message.get("value")
    if str(message["from"]).lower() in CALLS:
        return {"role": role, "tool_calls": _parsed_json(f"{where}: value", value), **rest}
    return {"role": role, **({} if value is None else {"content": value}), **rest}


def _text(where: str, content) -> str:
    """A content as text: a text, or a list of parts that are texts."""
    if isinstance(content, list):
        parts = []
        for part in content:
            kind = part.get("type", "text") if isinstance(part, dict) else kind_of_json(part)
            if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
                raise UserError(
                    f'{where} has a part of type {kind}: only {{"type": "text", "text": ...}} can be learned from'
                )
            parts.append(part["text"])
        content = "".join(parts)
    if not isinstance(content, str):
        raise UserError(f"{where} is {kind_of_json(content)}: it has to be a text")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} has half of a character, \\u{ord(content[error.start]):04x}: write the whole character"
        ) from None
    return content


def _calls(where: str, message: dict) -> list:
    """The tool calls of a message, with arguments as objects, as templates take them."""
    if "function_call" in message:  # OpenAI's form of 2023
        message["tool_calls"] = message.pop("function_call")
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)
        return []
    calls = message["tool_calls"]
    calls = calls if isinstance(calls, list) else [calls]
    message["tool_calls"] = [_call(f"{where}: tool call {number}", call) for number, call in enumerate(calls, start=1)]
    return message["tool_calls"]


def _call(where: str, call) -> dict:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError(f'{where}: write {{"type": "function", "function": {{"name": ..., "arguments": {{...}}}}}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed_json(f"{where}: arguments", arguments or "{}")
    outer = {name: value for name, value in call.items() if name not in ("function", "name", "arguments")}
    return {"type": "function", **outer, "function": {"name": function["name"], "arguments": arguments}}


def _weight(where: str, message: dict) -> int:
    weight = message.get("weight", 1)
    if weight not in (0, 1) or isinstance(weight, bool):
        raise UserError(f"{where}: weight is {weight!r}: it is 1 (learn from this answer) or 0 (do not)")
    return int(weight)


# ------------------------------------------------------------------------------------------------- the rest of a line


def _messages_or_text(where: str, name: str, value, role: str) -> list[dict]:
    if isinstance(value, list):
        return messages_of(f"{where}: {name}", value)
    return [_message(f"{where}: {name}", {"role": role, "content": value})]


def _more(where: str, contents: dict) -> dict:
    """The template's variables beside the messages."""
    more = contents.get("chat_template_kwargs") or {}
    if not isinstance(more, dict):
        raise UserError(f"{where}: chat_template_kwargs is {kind_of_json(more)}: it has to be an object")
    tools = contents.get("tools") or contents.get("functions")
    if isinstance(tools, str):  # data sets store it so, because its objects differ from line to line
        tools = _parsed_json(f"{where}: tools", tools)
    if not tools:
        return dict(more)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UserError(f"{where}: tools has to be a list of objects")
    wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    return {**more, "tools": wrapped}


def _parsed_json(where: str, text):
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} has to be JSON: {error.msg} at {error.pos + 1}") from None
