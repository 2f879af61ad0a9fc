"""Pairs of answers in files: every form in which people publish them, what is left out, and what is refused."""

import json

import pytest

from minillm.data.preferences import EMPTY, TIE, ConversationPair, TextPair, pair_of, read_preferences
from minillm.errors import UserError


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


TEXTS = {
    "TRL, explicit prompt": {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    "TRL, implicit prompt": {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    "implicit, with letters in common": {"chosen": "The sky is blue.", "rejected": "The sky is bright."},
    "the prompt again before both answers": {
        "prompt": "The sky is", "chosen": "The sky is blue.", "rejected": "The sky is green."},
}  # fmt: skip

HELLO = [user("Hi"), answer("Hello.")], [user("Hi"), answer("No.")]
CONVERSATIONS = {
    "TRL, explicit prompt": {"prompt": [user("Hi")], "chosen": [answer("Hello.")], "rejected": [answer("No.")]},
    "TRL, implicit prompt": {"chosen": HELLO[0], "rejected": HELLO[1]},
    "the prompt, and whole conversations": {"prompt": [user("Hi")], "chosen": HELLO[0], "rejected": HELLO[1]},
    "a list as prompt, texts as answers": {"prompt": [user("Hi")], "chosen": "Hello.", "rejected": "No."},
    "UltraFeedback, binarized": {
        "prompt": "Hi ", "prompt_id": "f0e3", "chosen": HELLO[0], "rejected": HELLO[1], "messages": HELLO[0],
        "score_chosen": 8.5, "score_rejected": 3.0},
    "hh-rlhf": {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."},
    "hh-rlhf with its prompt apart": {
        "prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello.", "rejected": " No."},
    "hh-rlhf without the first blank line": {
        "chosen": "Human: Hi\n\nAssistant: Hello.", "rejected": "Human: Hi\n\nAssistant: No."},
    "Orca": {"question": "Hi", "chosen": "Hello.", "rejected": "No."},
    "Alpaca": {"instruction": "Hi", "input": "", "chosen": "Hello.", "rejected": "No."},
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello."}, "rejected": {"from": "gpt", "value": "No."}},
    "OpenAI": {
        "input": {"messages": [user("Hi")], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [answer("Hello.")], "non_preferred_output": [answer("No.")]},
}  # fmt: skip


@pytest.mark.parametrize("form", TEXTS)
def test_texts(form):
    pair = pair_of("f, line 1", TEXTS[form])
    assert pair.prompt == "The sky is" and pair.chosen == " blue." and pair.rejected in (" green.", " bright.")


@pytest.mark.parametrize("form", CONVERSATIONS)
def test_conversations(form):
    pair = pair_of("f, line 1", CONVERSATIONS[form])
    assert isinstance(pair, ConversationPair)
    assert (pair.chosen.messages, pair.rejected.messages) == HELLO
    assert pair.chosen.learned == pair.rejected.learned == (False, True)


def test_texts_become_messages_where_that_is_wanted():
    pair = pair_of("f, line 1", TEXTS["TRL, explicit prompt"], as_messages=True)
    assert pair.chosen.messages == [user("The sky is"), answer(" blue.")]


def test_orca_and_alpaca_with_all_their_fields():
    pair = pair_of("f, line 1", {"system": "Be brief.", "question": "Hi", "chosen": "Hello.", "rejected": "No."})
    assert pair.chosen.messages[0] == {"role": "system", "content": "Be brief."}
    pair = pair_of("f, line 1", {"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"})
    assert pair.rejected.messages == [user("Add.\n1 2"), answer("4")]


def test_tools_of_openai_reach_the_template():
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    contents = CONVERSATIONS["OpenAI"] | {"input": {"messages": [user("Hi")], "tools": [tool]}}
    assert pair_of("f, line 1", contents).chosen.more == {"tools": [tool]}


def test_answers_of_several_turns_count_from_where_they_differ():
    before = [user("a"), answer("b"), user("c")]
    pair = pair_of("f", {"chosen": [*before, answer("d"), user("e"), answer("f")], "rejected": [*before, answer("g")]})
    assert pair.chosen.learned == (False, False, False, True, False, True)
    assert pair.rejected.learned == (False, False, False, True)


def test_a_long_transcript_keeps_what_was_said():
    text = "\n\nHuman: One:\n\ntwo\n\nAssistant: Three\n\nHuman: Human: four?\n\nAssistant:"
    pair = pair_of("f", {"chosen": text + " five", "rejected": text + " six\n\nseven"})
    assert [each["content"] for each in pair.chosen.messages] == ["One:\n\ntwo", "Three", "Human: four?", "five"]
    assert pair.rejected.messages[-1]["content"] == "six\n\nseven"


@pytest.mark.parametrize(
    "contents, what",
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, TIE),
        ({"chosen": HELLO[0], "rejected": HELLO[0]}, TIE),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, EMPTY),
        ({"prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer(" ")]}, EMPTY),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant:"}, EMPTY),
        ({"prompt": "a", "chosen": [], "rejected": []}, EMPTY),
    ],
)
def test_what_teaches_nothing(contents, what):
    assert pair_of("f, line 1", contents) == what


WRONG = {
    "no answer": ({"prompt": "a", "rejected": "b"}, "chosen is missing: a pair has two answers"),
    "an answer that is a number": ({"prompt": "a", "chosen": 1, "rejected": "b"}, "chosen is a number: it has to be"),
    "two forms": ({"prompt": "a", "chosen": [answer("b")], "rejected": "b"}, "write both in one form"),
    "no prompt": ({"chosen": "x", "rejected": "b"}, "do not begin with the same text: add the prompt"),
    "no prompt in messages": ({"chosen": [answer("x")], "rejected": [answer("b")]}, "no prompt that both answers follow"),
    "different prompts": (
        {"chosen": [*HELLO[0], user("c"), answer("d")], "rejected": [*HELLO[0], user("e"), answer("f")]},
        "answer different prompts: message 3 of chosen is of the user"),
    "a prompt that is not that of the answers": (
        {"prompt": "zzz", "chosen": HELLO[0], "rejected": HELLO[1]}, "prompt is not in the conversation of chosen"),
    "a prompt that is a number": ({"prompt": 3, "chosen": "x", "rejected": "y"}, "prompt is a number"),
    "a question at the end": (
        {"prompt": [user("q")], "chosen": [answer("x"), user("y")], "rejected": [answer("b")]},
        "chosen does not end with a message of the assistant"),
    "an answer that goes on": (
        {"chosen": [*HELLO[0]], "rejected": [*HELLO[0], user("a"), answer("b")]}, "the beginning of the other"),
    "an unknown role": (
        {"prompt": [user("q")], "chosen": [{"role": "robot", "content": "x"}], "rejected": [answer("b")]},
        "unknown role 'robot'"),
    "half of OpenAI's form": ({"preferred_output": [answer("x")]}, 'write {"input": {"messages"'),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_pairs_are_refused_by_place_and_cure(wrong):
    contents, text = WRONG[wrong]
    with pytest.raises(UserError) as refused:
        pair_of("pairs.jsonl, line 7", contents)
    assert str(refused.value).startswith("pairs.jsonl, line 7") and text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files(tmp_path):
    """Several files; ties, empty answers, scores against the choice and other fields are counted."""
    lines = [
        TEXTS["TRL, explicit prompt"] | {"source": "x"},
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt": "a", "chosen": "b", "rejected": ""},
        CONVERSATIONS["UltraFeedback, binarized"] | {"score_rejected": 8.5},
        CONVERSATIONS["Orca"] | {"chosen-rating": 2, "rejected-rating": 5},
    ]
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text("\ufeff" + "\r\n".join(json.dumps(line) for line in lines[:3]) + "\n\n", encoding="utf-8")
    other.write_text(json.dumps(lines[3:]), encoding="utf-8")
    found = read_preferences([one, other])
    assert [type(pair) for pair in found.pairs] == [TextPair, ConversationPair, ConversationPair]
    assert [pair.where for pair in found.pairs] == [f"{one}, line 1", f"{other}, entry 1", f"{other}, entry 2"]
    assert (found.ties, found.empty, found.against) == (1, 1, 2)
    assert found.unread == {"source": 1, "prompt_id": 1}


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(TEXTS["TRL, explicit prompt"]) + "\n{'prompt': 'a'}\n")
    with pytest.raises(UserError, match="line 2: it is written as Python, not JSON"):
        read_preferences([path])
