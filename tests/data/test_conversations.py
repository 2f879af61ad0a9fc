"""Conversations in the forms that data sets have, and what is wrong in people's files."""

import json

import pytest

from minillm.data.conversations import conversation_of, read_conversations
from minillm.errors import UserError

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}


@pytest.mark.parametrize(
    "line",
    [
        {"messages": HI},
        {"messages": HI, "prompt": "Hi"},  # as UltraChat has it
        {"conversations": HI},
        {"conversation": HI},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
        {"conversations": [{"from": "USER", "value": "Hi"}, {"from": "ASSISTANT", "value": "Hello."}]},
        {"prompt": "Hi", "completion": "Hello."},
        {"prompt": HI[:1], "completion": HI[1:]},
        {"messages": None, "prompt": "Hi", "completion": "Hello.", "system": None},
        {"messages": [{**HI[0], "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, HI[1]]},
        {"messages": [HI[0], {**HI[1], "tool_calls": None, "function_call": None, "weight": 1}]},
        {"messages": [*HI, {"role": "user", "content": "a question without an answer teaches nothing"}]},
    ],
)
def test_one_conversation_in_many_forms(line):
    found = conversation_of("f, line 1", json.loads(json.dumps(line)))
    assert found.messages == HI and found.learned == (False, True) and found.more == {}


def test_a_system_message_beside_the_messages():
    line = {
        "system": "Be brief.",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}],
    }
    assert conversation_of("f", line).messages == [{"role": "system", "content": "Be brief."}, *HI]


@pytest.mark.parametrize(
    "call, result",
    [
        ({"content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "blue"}),
        (
            {"tool_calls": [{**CALL, "function": {"name": "look", "arguments": '{"at": "sky"}'}}]},
            {"role": "tool", "content": "blue"},
        ),
        ({"function_call": {"name": "look", "arguments": '{"at": "sky"}'}}, {"role": "function", "content": "blue"}),
    ],
)
def test_calls_of_tools_are_objects_as_templates_take_them(call, result):
    found = conversation_of("f", {"messages": [HI[0], {"role": "assistant", **call}, result, HI[1]]})
    assert found.messages[1] == {"role": "assistant", "tool_calls": [CALL]}
    assert found.messages[2] == {"role": "tool", "content": "blue"} and found.learned == (False, True, False, True)


def test_calls_as_sharegpt_has_them():
    turns = [
        ("human", "Hi"),
        ("function_call", '{"name": "look", "arguments": {"at": "sky"}}'),
        ("observation", "blue"),
    ]
    line = {"conversations": [{"from": role, "value": value} for role, value in [*turns, ("gpt", "Hello.")]]}
    assert (
        conversation_of("f", line).messages
        == conversation_of(
            "f",
            {
                "messages": [
                    HI[0],
                    {"role": "assistant", "tool_calls": [CALL]},
                    {"role": "tool", "content": "blue"},
                    HI[1],
                ]
            },
        ).messages
    )


@pytest.mark.parametrize("name", ["tools", "functions"])
@pytest.mark.parametrize("stored", [lambda tools: tools, json.dumps])
def test_tools_and_variables_of_the_template(name, stored):
    tools = [{"name": "look", "parameters": {}}]
    line = {"messages": HI, name: stored(tools), "chat_template_kwargs": {"enable_thinking": False}}
    wrapped = [{"type": "function", "function": tools[0]}]
    assert conversation_of("f", line).more == {"tools": wrapped, "enable_thinking": False}


def test_weights_choose_what_is_learned():
    turns = [HI[0], {**HI[1], "weight": 0}, HI[0], {**HI[1], "weight": 1}, HI[0], {**HI[1], "weight": 0}]
    found = conversation_of("f", {"messages": turns})
    assert found.learned == (False, False, False, True) and "weight" not in found.messages[3]


def test_files_in_their_order_and_the_fields_that_are_not_read(tmp_path):
    for number in (1, 2):
        lines = [{"messages": HI, "id": number, "source": None}, {"messages": HI, "prompt": "Hi"}]
        (tmp_path / f"{number}.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    found, unread = read_conversations([tmp_path / "2.jsonl", tmp_path / "1.jsonl"])
    assert [each.where.removeprefix(f"{tmp_path}/") for each in found] == [
        "2.jsonl, line 1",
        "2.jsonl, line 3",
        "1.jsonl, line 1",
        "1.jsonl, line 3",
    ]
    assert unread == {"id": 2, "prompt": 2}


def said(role, **fields):
    return {
        "messages": [{"role": "user", "content": "Hi"}, {"role": role, **fields}, {"role": "assistant", "content": "a"}]
    }


@pytest.mark.parametrize(
    "line, message",
    [
        ({}, "it has no conversation"),
        ({"text": "Hi", "instruction": "a"}, "it has no conversation"),
        ({"prompt": "Hi"}, "it has no conversation"),
        ({"role": "user", "content": "Hi"}, "it is one message: write all messages of a conversation in one line"),
        ({"messages": []}, "messages is an empty list"),
        ({"messages": "[]"}, "messages is a text: write the list"),
        ({"messages": {"role": "user"}}, "messages is an object"),
        ({"messages": [*HI, "Bye"]}, "messages, message 3 is a text: it has to be an object"),
        ({"messages": [*HI, {"content": "Bye"}]}, "messages, message 3: the role is missing"),
        (said("bot", content="a"), "messages, message 2: unknown role 'bot': write assistant"),
        (said("human", content="a"), "messages, message 2: unknown role 'human': write user"),
        (said("critic", content="a"), "messages, message 2: unknown role 'critic': use one of system, "),
        ({"conversations": [{"from": "alice", "value": "Hi"}]}, "conversations, message 1: unknown \"from\", 'alice'"),
        (said("assistant", content=""), "messages, message 2 (of the assistant) is empty"),
        (said("assistant", content=" \n"), "messages, message 2 (of the assistant) is empty"),
        (said("assistant", content=None), "messages, message 2 (of the assistant) has no content"),
        (said("assistant", content=[]), "messages, message 2 (of the assistant) is empty"),
        (said("user"), "messages, message 2 (of the user) has no content"),
        (said("user", content=5), "messages, message 2: content is a number"),
        (said("user", content="\ud83d"), "messages, message 2: content has half of a character, \\ud83d"),
        (said("user", content=[{"type": "image_url"}]), "messages, message 2: content has a part of type image_url"),
        (
            said("assistant", content=[{"type": "refusal", "refusal": "No"}]),
            "messages, message 2: content has a part of ty",
        ),
        (said("user", tool_calls=[CALL]), "messages, message 2: only the assistant calls tools"),
        (said("assistant", tool_calls=[{"id": "1"}]), "messages, message 2: tool call 1: write"),
        (
            said("assistant", function_call={"name": "f", "arguments": "{"}),
            "messages, message 2: tool call 1: arguments has to be JSON",
        ),
        ({"messages": HI[:1]}, "no message of the assistant to learn from"),
        ({"messages": [HI[0], {**HI[1], "weight": 0}]}, "no message of the assistant with a weight of 1"),
        ({"messages": [HI[0], {**HI[1], "weight": 0.5}]}, "message 2: weight is 0.5"),
        ({"messages": HI, "tools": "look"}, "tools has to be JSON"),
        ({"messages": HI, "tools": [1]}, "tools has to be a list of objects"),
        ({"messages": HI, "chat_template_kwargs": []}, None),
        ({"messages": HI, "chat_template_kwargs": "a"}, "chat_template_kwargs is a text"),
    ],
)
def test_what_is_wrong_is_named(line, message):
    if message is None:
        conversation_of("f, line 7", line)
        return
    with pytest.raises(UserError) as caught:
        conversation_of("f, line 7", line)
    assert str(caught.value).startswith(f"f, line 7: {message}") and "\n" not in str(caught.value)
