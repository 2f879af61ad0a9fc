"""Conversations: what is read of them, what the model sees, how answers end, and that none of it changes what is written.

Every text is compared with that of passes over all tokens without a cache.
"""

import json

import numpy as np
import pytest

import minillm
from minillm.backend.random_streams import stream
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.generation.conversation import Conversation
from minillm.layers import cache
from minillm.models.mistral import Mistral, MistralConfig
from minillm.pretrained.chat import Chat
from minillm.pretrained.plain_template import plain_chat
from minillm.sampler import Sampler
from minillm.tokenizers import BytePairTokenizer

pytest.importorskip("jinja2", reason="chat templates need jinja2")
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|other|>"]
TOKENIZER = BytePairTokenizer.train("the user asks, the model says what the fox is " * 9, 290, SPECIAL)
START, END, OTHER = (TOKENIZER.special_tokens[name] for name in SPECIAL)
CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
FORGETFUL = CHATML.replace("m.content", "(m.content if loop.last else m.content[2:])")  # as Qwen3 drops <think>
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
WITHOUT_SYSTEM = CHATML.replace("messages %}", "messages if m.role != 'system' %}")
QUESTIONS = ["the fox?", "what is the user", "says the model, what?", "fox"]


def make(kind=minillm.Llama, config=minillm.LlamaConfig, **shape):
    fields = dict(vocab_size=TOKENIZER.vocab_size, context_length=256, n_layer=2, n_head=2, d_model=16) | shape
    return randomised(kind(config(**fields), seed=0, dtype="float64"), 0.3).eval()


@pytest.fixture(scope="module")
def llama():
    return make()


@pytest.fixture
def columns(monkeypatch):
    """How many columns each pass of a model computed, in order."""
    counts, advance = [], cache.Cache.advance

    def counted(self):
        counts.append(self.count)
        advance(self)

    monkeypatch.setattr(cache.Cache, "advance", counted)
    return counts


def talk(model, template=CHATML, sampler=None, **options):
    options.setdefault("max_tokens", 6)
    return Conversation(model, TOKENIZER, Chat(template), sampler or Sampler(temperature=0), **options)


def say(conversation, text):
    answer = conversation.answer(text)
    assert "".join(answer) == answer.text
    return answer


def messages(*contents):
    return [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)]


def ids_of(messages, template=CHATML):
    return Chat(template).encode(TOKENIZER, messages)[0]


def greedy_by_forward(model, ids, count):
    """The likeliest tokens, each by a forward pass over all tokens before it."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model.forward(np.array([ids]))[0, -1].argmax()))
    return ids[len(ids) - count :]


class Scripted:
    """A sampler that draws what a script says, answer by answer."""

    def __init__(self, *answers):
        self.settings, self.answers = Sampler().settings, [list(answer) for answer in answers]

    def with_settings(self, **_):
        return self

    def reset(self, step):
        self.current = self.answers.pop(0)

    def sample(self, logits, history):
        return np.array([self.current.pop(0)])


# ----------------------------------------------------------------------------------------------- only what is new is read


@pytest.mark.parametrize(
    "kind, config, shape",
    [
        (minillm.GPT2, minillm.GPT2Config, {}),
        (minillm.Llama, minillm.LlamaConfig, dict(n_kv_head=1)),
        (Mistral, MistralConfig, dict(sliding_window=8)),
    ],
)
@pytest.mark.parametrize("template", [CHATML, FORGETFUL])
def test_only_new_tokens_are_read_and_the_text_is_that_of_forward(kind, config, shape, template, columns):
    model = make(kind, config, **shape)
    conversation, seen = talk(model, template), []
    for question in QUESTIONS:
        before = len(columns)
        ids = ids_of([*conversation.messages, {"role": "user", "content": question}], template)
        answer = say(conversation, question)
        common = next(at for at, (a, b) in enumerate(zip([*seen, None], ids)) if a != b)
        passes = columns[before:]
        assert (answer.kept, answer.read) == (common, len(ids) - common)
        assert passes == [len(ids) - common] + [1] * (len(passes) - 1)
        assert answer.ids == greedy_by_forward(model, ids, len(answer.ids))
        seen = ids + answer.ids[:-1]  # the last token is drawn, and not read
    assert conversation.tokens_read == sum(columns)


@pytest.mark.parametrize("window, spare", [(8, 4), (8, 64)])
def test_a_window_that_was_left_is_read_anew(window, spare, columns, monkeypatch):
    """A template that changes early text cuts far back; a layer that keeps few columns cannot go back to there."""
    monkeypatch.setattr(cache, "SPARE", spare)
    monkeypatch.setattr(cache, "BLOCK", 16)
    model = make(Mistral, MistralConfig, sliding_window=window)
    conversation = talk(model, max_tokens=30)
    say(conversation, QUESTIONS[0])
    say(conversation, QUESTIONS[1])
    conversation.undo()
    before = len(columns)
    ids = ids_of([*conversation.messages, {"role": "user", "content": "fox"}])
    answer = say(conversation, "fox")
    assert columns[before] == answer.read and answer.read + answer.kept == len(ids)
    assert (answer.kept == 0) == (spare == 4)
    assert answer.ids == greedy_by_forward(model, ids, len(answer.ids))


def test_a_long_message_is_read_in_parts(llama, columns):
    text = " ".join(["the fox"] * 70)
    ids = ids_of([{"role": "user", "content": text}])
    answer = say(talk(llama), text)
    assert len(ids) > 140 and columns[:2] == [128, len(ids) - 128]
    assert answer.ids == greedy_by_forward(llama, ids, len(answer.ids))


def test_a_long_message_can_be_stopped_while_it_is_read(llama, columns, monkeypatch):
    conversation, text, advance = talk(llama), " ".join(["the fox"] * 70), cache.Cache.advance
    answer = conversation.answer(text)

    def stopping(self):
        answer.stop()
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(cache.Cache, "advance", stopping)
        assert list(answer) == [] and answer.reason == "stopped" and columns == [128]
    answer = say(conversation, text)
    assert answer.kept == 128, "what was read stays read"
    assert answer.ids == greedy_by_forward(llama, ids_of(messages(text)), len(answer.ids))


def test_a_model_without_a_cache_talks_too(llama):
    model = make()
    model.forward = lambda ids, rng_key=None, forward=model.forward: forward(ids, rng_key)
    conversation, same = talk(model), talk(llama)
    for question in QUESTIONS[:2]:
        assert say(conversation, question).text == say(same, question).text
    assert conversation.tokens_read > same.tokens_read


# -------------------------------------------------------------------------------------------------------- what is drawn


def test_the_same_conversation_is_the_same_text_however_it_came_about(llama):
    sampler = Sampler(temperature=1.0, seed=3)
    conversation, again = talk(llama, sampler=sampler), talk(llama, sampler=sampler)
    answers = [say(conversation, question).text for question in QUESTIONS]
    assert answers == [say(again, question).text for question in QUESTIONS]
    assert len(set(answers)) > 1
    loaded = talk(llama, sampler=sampler)
    loaded.load(json.loads(json.dumps(conversation.messages[:-2])))
    assert say(loaded, QUESTIONS[-1]).text == answers[-1]
    other = talk(llama, sampler=Sampler(temperature=1.0, seed=4))
    assert answers != [say(other, question).text for question in QUESTIONS]


def test_each_answer_draws_other_numbers():
    """Seen in a model for which all tokens are equally likely, whatever was said."""
    model = make()
    for parameter in model.parameters().values():
        parameter.value[...] = 0
    conversation = talk(model, sampler=Sampler(seed=3))
    assert say(conversation, "x").ids != say(conversation, "x").ids


def test_a_retry_draws_other_numbers_and_reads_one_token(llama):
    conversation = talk(llama, sampler=Sampler(temperature=1.0, seed=3))
    say(conversation, "the fox?")
    first, texts = conversation.messages[-1]["content"], []
    for _ in range(2):
        answer = conversation.retry()
        texts.append("".join(answer))
        assert answer.read == 1 and len(conversation.messages) == 2
    assert len({first, *texts}) == 3
    same = talk(llama, sampler=Sampler(temperature=1.0, seed=3))
    say(same, "the fox?")
    assert ["".join(same.retry()), "".join(same.retry())] == texts
    conversation.undo()
    assert say(conversation, "the fox?").text == first


# --------------------------------------------------------------------------------------------------- how an answer ends


def encoded(text):
    return TOKENIZER.encode(text)


def test_only_whole_characters_and_no_special_tokens_are_shown(llama):
    text = "日本 😀é"
    conversation = talk(llama, sampler=Scripted([*encoded("日"), OTHER, *encoded("本 😀é"), END]), max_tokens=99)
    pieces = list(answer := conversation.answer("the fox"))
    assert "".join(pieces) == text == conversation.messages[-1]["content"]
    assert all("\N{REPLACEMENT CHARACTER}" not in piece and piece for piece in pieces) and len(pieces) > 4
    assert answer.reason == "end" and answer.ids[-1] == END


def test_a_character_that_is_cut_off_is_left_out(llama):
    conversation = talk(llama, sampler=Scripted([*encoded("a"), *encoded("😀")[:2]], [END]), max_tokens=3)
    answer = say(conversation, "the fox")
    assert (answer.text, answer.reason) == ("a", "length")
    ids = ids_of([*conversation.messages, {"role": "user", "content": "x"}])
    answer = say(conversation, "x")
    assert (answer.text, answer.reason, answer.kept + answer.read) == ("", "end", len(ids))


def test_a_text_of_the_template_ends_an_answer_where_no_token_does():
    """A vocabulary without control tokens: the blank line that the template writes after an answer."""
    tokenizer = BytePairTokenizer.train("the fox " * 9, 260)
    chat = plain_chat(tokenizer)
    script = Scripted([*tokenizer.encode("the fox\n\nUser:\nwhat"), END])
    model = make(vocab_size=tokenizer.vocab_size)
    conversation = Conversation(model, tokenizer, chat, script, max_tokens=99, stop=["what"])
    answer = say(conversation, "x")
    assert (answer.text, answer.reason) == ("the fox", "end")


def test_stop_strings(llama):
    conversation = talk(llama, sampler=Scripted(encoded("the fox\nUser: b")), max_tokens=99, stop=["\nUser:"])
    answer = say(conversation, "x")
    assert (answer.text, answer.reason) == ("the fox", "stop")
    with pytest.raises(UserError, match="stop string is empty"):
        talk(llama, stop=[""])


def test_end_tokens_are_those_of_the_template_and_those_given(llama):
    assert talk(llama).end_tokens == {END}
    assert talk(llama, end_tokens=[7]).end_tokens == {END, 7}
    answer = say(talk(llama, sampler=Scripted(encoded("a") + [encoded("b")[0]]), end_tokens=encoded("b")), "x")
    assert (answer.text, answer.reason) == ("a", "end")


def test_an_answer_ends_where_the_context_does():
    model = make(context_length=40)
    ids = ids_of([{"role": "user", "content": "the fox"}])
    conversation = talk(model, sampler=Scripted(encoded("a") * 99), max_tokens=None)
    answer = say(conversation, "the fox")
    assert answer.reason == "context" and len(ids) + len(answer.ids) == 41  # the last one is not read
    assert answer.text == "a" * len(answer.ids)


def test_a_stopped_answer_stays_and_the_next_turn_is_right(llama):
    conversation = talk(llama, max_tokens=30)
    answer = conversation.answer("the fox?")
    next(answer)
    text = answer.text
    answer.stop()
    assert list(answer) == [] and answer.reason == "stopped"
    assert conversation.messages == [{"role": "user", "content": "the fox?"}, {"role": "assistant", "content": text}]
    ids = ids_of([*conversation.messages, {"role": "user", "content": "fox"}])
    assert (after := say(conversation, "fox")).ids == greedy_by_forward(llama, ids, len(after.ids))
    assert after.kept > 0


def test_a_question_whose_answer_did_not_begin_is_taken_back(llama):
    conversation = talk(llama)
    say(conversation, "the fox?")
    before = conversation.messages
    answer = conversation.answer("fox")
    assert conversation.messages[-1] == {"role": "user", "content": "fox"}
    answer.stop()
    assert list(answer) == [] and answer.reason == "stopped" and conversation.messages == before
    conversation.answer("nothing is taken of this one")
    ids = ids_of([*before, {"role": "user", "content": "fox"}])
    assert (after := say(conversation, "fox")).ids == greedy_by_forward(llama, ids, len(after.ids))


def test_what_is_done_in_the_middle_of_an_answer_ends_it(llama):
    conversation = talk(llama, max_tokens=30)
    answer = conversation.answer("the fox?")
    next(answer)
    say(conversation, "fox")
    assert answer.reason == "stopped" and [m["role"] for m in conversation.messages] == ["user", "assistant"] * 2
    next(conversation.answer("x"))
    conversation.reset()
    assert conversation.messages == []


@pytest.mark.parametrize("error, stays", [(KeyboardInterrupt, True), (UserError, False)])
def test_an_error_in_the_middle_of_an_answer(llama, error, stays):
    """Ctrl-C keeps what was written, an error takes the question back; either way the next turn is right."""

    class Failing(Scripted):
        def sample(self, logits, history):
            if not self.current:
                raise error
            return super().sample(logits, history)

    conversation = talk(llama)
    say(conversation, "the fox?")
    before, greedy = conversation.messages, conversation.sampler
    conversation.sampler = Failing(encoded("the"))
    with pytest.raises(error):
        list(conversation.answer("fox"))
    added = [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "the"}]
    assert conversation.messages == [*before, *(added if stays else ())]
    conversation.sampler = greedy
    ids = ids_of([*conversation.messages, {"role": "user", "content": "x"}])
    assert (after := say(conversation, "x")).ids == greedy_by_forward(llama, ids, len(after.ids))


def test_a_pass_that_fails_is_never_taken_for_read(llama, monkeypatch):
    conversation = talk(llama)
    say(conversation, "the fox?")
    advance = cache.Cache.advance

    def interrupted(self):
        monkeypatch.setattr(cache.Cache, "advance", advance)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.Cache, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(conversation.answer("fox"))
    ids = ids_of([*conversation.messages, {"role": "user", "content": "fox"}])
    assert (after := say(conversation, "fox")).ids == greedy_by_forward(llama, ids, len(after.ids))


# ------------------------------------------------------------------------------------------------------- a full context


def rounds(conversation, count):
    """What the model saw in each turn, as the contents of messages."""
    seen, encode = [], conversation.chat.encode
    for number in range(count):
        shown = []

        class Watched:
            def encode(self, tokenizer, messages, shown=shown):
                shown[:] = messages
                return encode(tokenizer, messages)

        chat, conversation.chat = conversation.chat, Watched()
        answer = conversation.answer(f"the fox {number}")
        seen.append(([message["content"] for message in shown], answer.left))
        "".join(answer)
        conversation.chat = chat
    return seen


@pytest.mark.parametrize("system", [None, "be the fox"])
def test_a_full_context_slides_by_whole_turns(system):
    model = make(context_length=96)
    conversation = talk(model, max_tokens=8)
    if system:
        conversation.set_system(system)
    seen = rounds(conversation, 9)
    roles = [message["role"] for message in conversation.messages]
    assert roles == ["system"] * bool(system) + ["user", "assistant"] * 9, "nothing is lost of what was said"
    left = [count for _, count in seen]
    assert sum(left) > 2 and left[0] == 0
    gone = 0
    for number, (contents, count) in enumerate(seen):
        gone += count
        first = bool(system)
        assert contents[:first] == [system] * first
        expected = [message["content"] for message in conversation.messages[first + 2 * gone : first + 2 * number + 1]]
        assert contents[first:] == expected
    assert any(count == 0 for count in left[left.index(next(filter(None, left))) + 1 :]), "not at every turn"


def test_the_text_after_a_slide_is_that_of_the_messages_that_are_left():
    model = make(context_length=192)
    conversation = talk(model, max_tokens=8)
    while not (answer := conversation.answer("the fox")).left:
        "".join(answer)
    "".join(answer)
    visible = conversation.messages[2 * answer.left : -1]
    assert len(visible) > 1 and answer.ids == greedy_by_forward(model, ids_of(visible), len(answer.ids))
    assert len(ids_of(visible)) <= 96 < len(ids_of(conversation.messages[2 * answer.left - 2 : -1])), (
        "and no more than that"
    )


def test_a_question_never_leaves_without_its_answer():
    """Though the long question alone would be enough."""
    conversation = talk(make(context_length=96))
    conversation.load(messages("logits? " * 12, "a", "b", "c"))
    answer = say(conversation, "x")
    assert answer.left == 1 and answer.kept + answer.read == len(ids_of(messages("b", "c", "x")))


def test_a_loaded_conversation_slides_as_it_did():
    model = make(context_length=96)
    conversation = talk(model, sampler=Sampler(seed=1), max_tokens=8)
    for number in range(9):
        loaded = talk(model, sampler=Sampler(seed=1), max_tokens=8)
        loaded.load(conversation.messages)
        text = say(conversation, f"the fox {number}").text
        assert say(loaded, f"the fox {number}").text == text
    conversation.undo()
    assert say(conversation, "the fox 8").text == text


def test_what_alone_is_too_long_is_refused_and_the_conversation_stays():
    model = make(context_length=64)
    conversation = talk(model)
    say(conversation, "the fox")
    before = conversation.messages
    with pytest.raises(UserError, match=r"the message has \d+ tokens, .* the model sees 64 at a time: shorten it"):
        conversation.answer("logits? " * 30)
    assert conversation.messages == before
    ids = ids_of([*before, {"role": "user", "content": "x"}])
    assert (after := say(conversation, "x")).ids == greedy_by_forward(model, ids, len(after.ids)) and not after.left


# ------------------------------------------------------------------------------------------------------------ messages


def test_the_system_message(llama):
    conversation = talk(llama)
    say(conversation, "the fox?")
    said = conversation.messages
    conversation.set_system("be brief")
    assert conversation.system == "be brief" and conversation.messages[1:] == said
    ids = ids_of([{"role": "system", "content": "be brief"}, *said, {"role": "user", "content": "x"}])
    assert (after := say(conversation, "x")).ids == greedy_by_forward(llama, ids, len(after.ids))
    conversation.reset()
    assert [message["role"] for message in conversation.messages] == ["system"]
    conversation.set_system(None)
    assert conversation.messages == [] and conversation.system is None


def test_a_system_message_that_is_refused_or_not_shown(llama):
    conversation = talk(llama, NO_SYSTEM)
    say(conversation, "x")
    before = conversation.messages
    with pytest.raises(UserError, match="no system role"):
        conversation.set_system("be brief")
    assert conversation.messages == before and conversation.shows_system()
    conversation = talk(llama, WITHOUT_SYSTEM)
    conversation.set_system("be brief")
    assert not conversation.shows_system()


def test_nothing_to_take_back(llama):
    conversation = talk(llama)
    for method in (conversation.undo, conversation.retry):
        with pytest.raises(UserError, match="nothing was said yet"):
            method()
    say(conversation, "a")
    assert conversation.undo()[0] == {"role": "user", "content": "a"} and conversation.messages == []


def test_a_question_that_was_loaded_is_answered_by_a_retry(llama):
    asked, loaded = talk(llama, sampler=Sampler(seed=5)), talk(llama, sampler=Sampler(seed=5))
    loaded.load([{"role": "user", "content": "the fox?"}])
    assert "".join(loaded.retry()) == say(asked, "the fox?").text


def test_a_template_that_makes_nothing_of_the_messages(llama):
    with pytest.raises(UserError, match="makes no text of the messages"):
        talk(llama, "{% for m in messages %}{% endfor %}").answer("x")


@pytest.mark.parametrize("seed", range(3))
def test_random_conversations(seed):
    """Messages, retries, undone and loaded turns in any order: the text is that of forward."""
    rng = stream("test", "conversations", seed)
    model = make(context_length=128)
    conversation = talk(model, FORGETFUL, max_tokens=5)
    for _ in range(12):
        match int(rng.integers(5)):
            case 0 if conversation.messages:
                conversation.undo()
            case 1 if conversation.messages:
                "".join(conversation.retry())
            case 2:
                conversation.load(conversation.messages)
        answer = say(
            conversation, " ".join(["fox", "the user", "is"][i] for i in rng.integers(3, (1 + int(rng.integers(5)),)))
        )
        first = len(conversation.messages) - 1
        while True:  # the longest end of the messages, from a question on, with which the first token is the answer's
            ids = ids_of(conversation.messages[first - 1 : -1], FORGETFUL)
            if len(ids) == answer.kept + answer.read:
                break
            first -= 2
        assert answer.ids == greedy_by_forward(model, ids, len(answer.ids))
