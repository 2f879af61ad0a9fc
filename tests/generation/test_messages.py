"""Files of messages: the forms they have, and what is said of those that hold something else."""

import json

import pytest

from minillm.errors import UserError
from minillm.generation.messages import Loaded, checked_messages, read_messages, write_messages

HI = [{"role": "user", "content": "Hi\u2028é"}, {"role": "assistant", "content": "Hello.\n"}]
CIAO = {"role": "assistant", "content": "Ciao"}
BYE = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Bye"}]


def written(tmp_path, text, name="file.json"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(*documents):
    return "\n".join(json.dumps(each, ensure_ascii=False) for each in documents) + "\n"


@pytest.mark.parametrize(
    "text, number, expected",
    [
        (json.dumps(HI), 1, Loaded(HI, 1, [])),
        (json.dumps(HI, indent=1), 1, Loaded(HI, 1, [])),
        (json.dumps({"messages": HI}, indent=4), 1, Loaded(HI, 1, [])),
        (json.dumps({"model": "m", "messages": HI, "tools": []}), 1, Loaded(HI, 1, ["model", "tools"])),
        ("\ufeff" + json.dumps(HI) + "\r\n", 1, Loaded(HI, 1, [])),
        (lines({"messages": HI}), 1, Loaded(HI, 1, [])),
        (lines({"messages": HI}, {"messages": BYE, "weight": 1}), 1, Loaded(HI, 2, [])),
        (lines({"messages": HI}, {"messages": BYE, "weight": 1}), 2, Loaded(BYE, 2, ["weight"])),
        (lines({"messages": HI}) + "\n\n" + lines({"messages": BYE}), 2, Loaded(BYE, 2, [])),
        (lines({"messages": HI}) + "not JSON, and not asked for\n", 1, Loaded(HI, 2, [])),
        (lines(*HI), 1, Loaded(HI, 1, [])),
        (lines(HI, BYE), 2, Loaded(BYE, 2, [])),
        (json.dumps([{"messages": HI}, {"messages": BYE}], indent=1), 2, Loaded(BYE, 2, [])),
        (lines({"system": "Brief.", "conversations": [{"from": "human", "value": "Bye"}]}), 1, Loaded(BYE, 1, [])),
        (lines({"messages": HI}, {"id": 7, "prompt": BYE, "completion": "Ciao"}), 2, Loaded([*BYE, CIAO], 2, ["id"])),
    ],
)
def test_forms(tmp_path, text, number, expected):
    assert read_messages(written(tmp_path, text), number) == expected


@pytest.mark.parametrize(
    "text, number, error",
    [
        ("", 1, "file.json is not valid JSON"),
        ("Hi\nthere", 1, "file.json is not valid JSON: .* line 1"),
        ("[" * 100_000, 1, "file.json is not valid JSON"),
        ('[{"role": "user"', 1, "file.json is not valid JSON"),
        ("5", 1, "file.json: a conversation is a list of messages: .* not a number"),
        ('{"conversations": []}', 1, "file.json: conversations is an empty list: it has to be a list of messages"),
        (json.dumps([{"messages": HI}]), 2, "file.json holds 1 conversations: there is no number 2"),
        ("{}", 1, "file.json holds no messages, but nothing: expected"),
        ('{"messages": {}}', 1, "file.json: a conversation is a list of messages: .* not an object"),
        ('["Hi"]', 1, "file.json: message 1 is a text: expected an object with role and content"),
        (json.dumps([*HI, {"from": "human", "value": "x"}]), 1, r"message 3 has no role \(it has from, value\)"),
        ('[{"role": 5, "content": "x"}]', 1, "message 1 has the role 5: expected a text"),
        ('[{"role": "user"}]', 1, r"message 1 \(user\) has no content"),
        ('[{"role": "user", "content": 7}]', 1, r"message 1 \(user\) has a number for content: expected a text"),
        ('[{"role": "user", "content": ["x"]}]', 1, r"message 1 \(user\) has a list for content"),
        (json.dumps(HI), 2, "file.json holds one conversation: there is no number 2"),
        (lines({"messages": HI}, {"messages": BYE}), 3, "file.json holds 2 conversations: there is no number 3"),
        (lines({"messages": HI}) + "\n{", 2, "file.json, line 3 is not valid JSON"),
        (lines({"messages": HI}, {"messages": [{}]}), 2, "file.json, line 2: message 1 has no role"),
        (lines({"messages": HI}, {"text": 1}), 2, "file.json, line 2 holds no messages, but text"),
        (lines(HI[0], {"role": "assistant"}), 1, r"file.json: message 2 \(assistant\) has no content"),
    ],
)
def test_wrong_files_are_named(tmp_path, text, number, error):
    with pytest.raises(UserError, match=error):
        read_messages(written(tmp_path, text), number)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_messages(tmp_path / "nothing.json")
    (tmp_path / "bytes.json").write_bytes(b'["\xff"]')
    with pytest.raises(UserError, match="bytes.json is not valid UTF-8"):
        read_messages(tmp_path / "bytes.json")


def test_fields_stay_as_they_are():
    parts = [{"type": "text", "text": "a"}]
    messages = [
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "5", "tool_call_id": "1"},
    ]
    checked = checked_messages(messages)
    assert checked == messages and checked[0] is not messages[0]


@pytest.mark.parametrize("name", ["talk.json", "talk.jsonl"])
def test_what_is_written_is_read(tmp_path, name):
    write_messages(tmp_path / name, HI)
    assert read_messages(tmp_path / name) == Loaded(HI, 1, [])
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert "é" in text and text.endswith("\n")
    assert json.loads(text) == ({"messages": HI} if name.endswith("l") else HI)
    assert (text.count("\n") == 1) == name.endswith("l")
