import numpy as np
import pytest

from minillm.lessons import greedy_or_sampling as lesson
from minillm.lessons.small_model import small_model


@pytest.fixture(scope="module")
def measured():
    return lesson.LESSON.measure(lesson.LESSON.sentence)


def test_what_the_lesson_claims(measured):
    assert measured.holds, measured.findings
    figures = measured.figures
    assert figures["repetition, greedy"] > 0.2 > figures["repetition, people"]
    assert figures["repetition, temperature 1"] < 0.05
    assert figures["log-probability, greedy"] > figures["log-probability, temperature 0.5"]
    assert figures["log-probability, temperature 0.5"] > figures["log-probability, temperature 1"] + 0.5
    assert figures["log-probability, temperature 1"] == pytest.approx(figures["log-probability, people"], abs=0.5)
    assert figures["distinct-2, greedy"] < 0.6 < figures["distinct-2, people"] < figures["distinct-2, temperature 1"]


def test_the_findings_can_fail(measured):
    names = {"repetition": 0, "distinct-2": 1, "log-probability": 2}

    def score(way):
        repetition, varied, log_probability = (measured.figures[f"{name}, {way}"] for name in names)
        return lesson.Score(repetition, (varied, varied, varied), log_probability)

    scores = {way: score(way) for way in (lesson.PEOPLE, *lesson.WAYS)}
    assert all(finding.holds for finding in lesson._findings(scores))
    swapped = {**scores, "greedy": scores["temperature 1"], "temperature 1": scores["greedy"]}
    assert not any(finding.holds for finding in lesson._findings(swapped))


def test_the_picture_shows_the_loop(measured, draw):
    greedy, sampled, everything = (draw(measured).axes[index] for index in (0, 2, 1))
    repeated = [axes.images[0].get_array().astype(float).mean() for axes in (greedy, sampled)]
    diagonal = 1 / (lesson.WRITTEN - 1)
    assert repeated[0] > 2 * repeated[1] >= 2 * diagonal * (1 - 1e-9)
    names = {"people", "top-k 20", "top-p 0.9", "min-p 0.1", "temperature, 0 (greedy) to 2"}
    assert {text.get_text() for text in everything.get_legend().get_texts()} == names


def test_what_is_written_and_how_likely_it_is():
    model, tokenizer, _, _ = small_model()
    prompt = np.array([tokenizer.encode("The value")])
    ids, log_probabilities = lesson.write(model, prompt, lesson.drawing(dict(temperature=0)))
    assert ids.shape == log_probabilities.shape == (1, lesson.WRITTEN)
    seen = model.config.context_length - prompt.shape[1]  # until the oldest tokens slide out of view
    text = np.concatenate([prompt, ids[:, :seen]], axis=1)[:, :-1]
    logits = model.forward(text)[0, prompt.shape[1] - 1 :].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert (ids[0, :seen] == expected.argmax(axis=-1)).all()
    np.testing.assert_allclose(log_probabilities[0, :seen], expected.max(axis=-1), atol=1e-4)


def test_a_sentence_of_the_readers_own_is_continued(measured):
    other = lesson.LESSON.measure("If the")
    assert other.figures == measured.figures  # what is claimed does not hang on the sentence
    assert other.tables[1] != measured.tables[1]
