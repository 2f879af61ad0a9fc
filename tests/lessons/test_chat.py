import numpy as np

from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.lessons import chat, counting
from minillm.lessons.small_model import small_model


def test_what_the_lesson_claims():
    measured = chat.LESSON.measure()
    assert measured.holds, measured.findings


def test_the_language():
    learned, held_out = counting.questions()
    assert len(learned) + len(held_out) == 156 and len({each.text for each in learned + held_out}) == 156
    answers = {each.text: each.answer() for each in learned + held_out}
    assert answers["after four?"] == "five." and answers["what comes before zero?"] == "nothing."
    assert answers["count: after twelve?"] == "nothing."
    follow_up = counting.follow_ups(counting.Question("after four?", 5))[1]
    assert (follow_up.text, follow_up.answer(counting.POLITE)) == ("and before that?", "it is four.")
    assert counting.follow_ups(counting.Question("before zero?", -1)) == []
    (single, *more) = counting.conversations([counting.Question("after four?", 5)])
    assert [message["content"] for message in single.messages] == ["after four?", "five."] and len(more) == 2


def test_only_answers_have_targets():
    rows = chat.packed(counting.conversations(counting.questions()[1]))
    tokenizer = small_model().tokenizer
    texts = [tokenizer.decode(row[row != IGNORE_INDEX].tolist()) for row in rows.targets]
    assert max(rows.shared_by) > 1 and rows.starts.max() > 0
    for text in texts:
        assert set(text.replace("\n\n", "").rstrip(".").split(".")) <= {*counting.NUMBERS, "nothing"}


def test_right_answers_are_counted_to_the_letter(monkeypatch):
    questions = counting.questions()[1][:4]
    said = [questions[0].answer(), questions[1].answer() + " ...", "it is " + questions[2].answer(), "no."]
    monkeypatch.setattr(chat, "answers", lambda model, turns: said)
    turns = [(question,) for question in questions]
    assert chat.right_answers(None, turns) == 0.25
    assert chat.right_answers(None, turns, (counting.PLAIN, counting.POLITE)) == 0.5


def test_the_border_is_seen_where_it_is_not_kept():
    rows = chat.packed(counting.conversations(counting.questions()[1]))
    assert chat.of_one_row(rows, starts=True) == 0 < chat.of_one_row(rows, starts=False)
    assert np.isfinite(chat.text_loss(small_model().model))
