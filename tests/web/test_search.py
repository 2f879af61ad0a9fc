"""Beam search as a tree and speculative decoding round by round: the results are those of `minillm generate`."""

import re
from itertools import chain

import pytest
from generated import PROMPT, generated

pytest.importorskip("starlette", reason="the page needs starlette: pip install -e .[test-web]")

from minillm.errors import UserError
from minillm.generation.text import write as written_texts
from minillm.lessons.small_model import small_model
from minillm.sampler import Sampler
from minillm.web.play import search
from minillm.web.play.opening import open_studio
from minillm.web.play.studio import Studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """With two runs: one of the model's vocabulary, one of another."""
    runs = tmp_path_factory.mktemp("runs")
    small_model().untrained.save_pretrained(runs / "untrained")
    other = type(small_model().model)
    config = small_model().model.config
    other(type(config)(vocab_size=9, context_length=8, n_layer=1, n_head=1, d_model=4), seed=0).save_pretrained(
        runs / "another vocabulary"
    )
    (runs / "empty").mkdir()
    return open_studio(None, runs)


def prompt_of(studio):
    return studio.tokenizer.encode(PROMPT)


def beams(studio, **arguments):
    return list(search.beams(studio, {"prompt": prompt_of(studio), "beams": 4, "tokens": 12, **arguments}))


def speculate(studio, **arguments):
    return list(search.speculate(studio, {"prompt": prompt_of(studio), "draft": "look-up", "tokens": 40, **arguments}))


@pytest.mark.parametrize(
    "options, arguments",
    [
        ("--beams 4", {}),
        (
            "--beams 3 --length-penalty 0.5 --early-stopping never",
            dict(beams=3, length_penalty=0.5, early_stopping="never"),
        ),
        ("--beams 2 --early-stopping true", dict(beams=2, early_stopping=True)),
    ],
)
def test_the_best_text_is_that_of_generate(studio, options, arguments):
    expected = generated(*options.split(), tokens=12)
    *steps, last = beams(studio, **arguments)
    best = last["found"][0]
    assert (best["ids"], best["score"], best["text"]) == (expected["ids"], expected["score"], expected["text"])
    assert len(steps) == 12 and len(last["found"]) == arguments.get("beams", 4)


def test_the_steps_lead_to_the_texts(studio):
    """Every text that was found is a path through the tree, with its score at its last node."""
    *steps, last = beams(studio)
    scores, growing = {}, [[]]
    for step in steps:
        texts = [growing[each["parent"]] + [each["token"]] for each in step["candidates"]]
        fates = [each["fate"] for each in step["candidates"]]
        scores |= {tuple(text): each["score"] for text, each in zip(texts, step["candidates"])}
        growing = [text for text, fate in zip(texts, fates) if fate == "kept"]
        assert len(growing) in (0, 4) and len(texts) == 8
    for found in last["found"]:
        assert scores[tuple(found["ids"])] == found["score"]


def test_speculation_writes_what_generate_writes(studio):
    expected = generated("--lookup", "--temperature", 0, tokens=40)
    *passes, last = speculate(studio, settings={"temperature": 0})
    assert (last["ids"], last["text"]) == (expected["ids"], expected["text"])
    assert list(chain.from_iterable(each["written"] for each in passes)) == expected["ids"]
    assert last["written"] == 40 and last["passes"] == len(passes) == 40 - last["accepted"]
    assert last["proposed"] == sum(len(each["proposals"]) for each in passes)
    assert last["accepted"] == sum(len(each["written"]) - 1 for each in passes)
    for each in passes:
        accepted = len(each["written"]) - 1
        assert each["written"][:accepted] == each["proposals"][:accepted]
        for at, (p, q, number) in enumerate(zip(each["p"], each["q"], each["numbers"])):
            if at <= accepted:
                assert (number * q < p) == (at < accepted)


def test_a_draft_of_a_run_folder(studio):
    expected = generated("--draft", studio.runs / "untrained", "--lookahead", 3, "--seed", 4, tokens=20)
    arguments = dict(draft="untrained", lookahead=3, tokens=20, settings={"temperature": 0.8, "seed": 4})
    assert speculate(studio, **arguments)[-1]["ids"] == expected["ids"]
    assert search.drafts(studio, {}) == ["look-up", "the model itself", "untrained"]


def test_run_folders_that_are_no_drafts(studio, tmp_path):
    """One that is broken, and a link that leads out of the folder of run folders."""
    runs = tmp_path / "runs"
    for name in ("broken", "list"):
        (runs / name).mkdir(parents=True)
    (runs / "broken" / "config.json").write_text("{")
    (runs / "list" / "config.json").write_text("[1]")
    (runs / "link").symlink_to(studio.runs / "untrained", target_is_directory=True)
    other = Studio(studio.model, studio.tokenizer, "a", runs)
    assert search.drafts(other, {}) == ["look-up", "the model itself"]


def test_the_model_as_its_own_draft_is_accepted(studio):
    """Greedily, so that the text is that of plain generation."""
    last = speculate(studio, draft="the model itself", settings={"temperature": 0}, tokens=25)[-1]
    assert last["accepted"] == last["proposed"] == 20 and last["passes"] == 5
    *_, (plain,) = written_texts(studio.model, studio.tokenizer, [prompt_of(studio)], 25, Sampler(0))
    assert last["ids"] == plain.ids and last["text"] == plain.text


def test_texts_end(studio):
    """What comes after an end of text in the same pass is not written. The last token that the text has for the first
    time, and not at the end of a pass of five, is made its end.
    """
    ids = speculate(studio, draft="the model itself", settings={"temperature": 0}, tokens=25)[-1]["ids"]
    end = max(place for place in range(25) if ids.index(ids[place]) == place and place % 5 < 4)
    studio.end_tokens = (ids[end],)
    try:
        *passes, last = speculate(studio, draft="the model itself", settings={"temperature": 0}, tokens=25)
        assert last["ids"] == ids[: end + 1] and last["written"] == len(last["ids"])
        assert sum(len(each["written"]) for each in passes) > last["written"]
        studio.end_tokens = (beams(studio)[-1]["found"][0]["ids"][4],)
        *steps, last = beams(studio)
        finished = [each for step in steps[:-1] for each in step["candidates"] if each["fate"] == "finished"]
        assert finished and {each["token"] for each in finished} == set(studio.end_tokens)
    finally:
        studio.end_tokens = ()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(prompt=[]), "the prompt is empty"),
        (dict(prompt=[999]), "prompt has 999"),
        (dict(beams=1), "beams is 1: it must be a whole number from 2 to 16"),
        (dict(beams=17), "beams is 17"),
        (dict(tokens=0), "tokens is 0"),
        (dict(tokens=201), "tokens is 201: it must be a whole number from 1 to 200"),
        (dict(length_penalty="much"), "length_penalty is 'much'"),
        (dict(length_penalty=1e308), "length_penalty is 1e+308: it must be a number from -50 to 50"),
        (dict(length_penalty=-51), "length_penalty is -51"),
        (dict(early_stopping="soon"), "early_stopping is soon"),
        (dict(early_stopping=[]), "early_stopping is []"),
    ],
)
def test_wrong_searches(studio, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        beams(studio, **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(draft="/etc"), "'/etc' is no draft: choose one of look-up, the model itself, untrained"),
        (dict(draft="../runs/untrained"), "is no draft"),
        (dict(draft="another vocabulary"), "is no draft"),
        (dict(draft=7), "draft is 7: it must be a text"),
        (dict(lookahead=21), "lookahead is 21: it must be a whole number from 1 to 20"),
        (dict(settings={"mirostat_tau": 3}), "mirostat_tau is set: speculative decoding cannot keep its distribution"),
        (dict(settings={"top_k": -1}), "top_k is -1"),
    ],
)
def test_wrong_speculations(studio, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        speculate(studio, **arguments)


# ---------------------------------------------------------------------------------------------------------- the pictures


@pytest.fixture
def view(page, play):
    page.goto(play)
    page.locator(".stages tbody tr").first.wait_for()
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    return page


def open_part(view, name):
    view.get_by_role("button", name=name, exact=True).click()


def test_the_tree_of_beams(view):
    expected = generated("--beams", 3, tokens=6)
    open_part(view, "Beam search")
    view.get_by_role("spinbutton", name="beams").fill("3")
    view.get_by_role("spinbutton", name="tokens", exact=True).fill("6")
    view.get_by_role("button", name="Search", exact=True).click()
    view.locator(".found .best").wait_for()
    boxes = view.locator(".beams .beam")
    assert boxes.count() == 6 * 6 and view.locator(".beams .edge").count() == 6 * 6
    best = view.locator(".beams .beam.best")
    ids = [box.get_attribute("data-ids") for box in best.all()]
    assert ids == [" ".join(map(str, expected["ids"][: n + 1])) for n in range(6)]
    assert float(best.last.get_attribute("data-score")) == expected["score"]
    assert all(box.text_content().startswith("★") for box in best.locator("text").all())
    assert f"score {expected['score']:.4f}, the best" in view.locator(".found .best").inner_text()

    detail = view.locator(".beam-detail")
    best.first.focus()
    detail.get_by_text("part of the best text").wait_for()
    first = detail.inner_text()
    view.keyboard.press("ArrowRight")
    assert view.locator(".beams .beam:focus").get_attribute("data-ids").startswith(ids[0] + " ")
    assert detail.inner_text() != first
    view.keyboard.press("ArrowLeft")
    assert detail.inner_text() == first
    view.locator(".beams .beam.pruned").first.hover()
    detail.get_by_text("pruned").wait_for()


def seed_with_both_fates(studio, temperature, tokens):
    """The first seed with which some guesses are accepted and some refused: the text is the model's, so it differs
    where a machine rounds differently."""
    for seed in range(50):
        settings = {"temperature": temperature, "seed": seed}
        last = speculate(studio, tokens=tokens, settings=settings)[-1]
        if 0 < last["accepted"] < last["proposed"]:
            return seed
    raise AssertionError("50 texts without an accepted and a refused guess")


def test_the_passes_of_speculation(studio, view):
    seed = seed_with_both_fates(studio, 0.5, 55)
    expected = generated("--lookup", "--temperature", 0.5, "--seed", seed, tokens=55)
    open_part(view, "Speculative decoding")
    view.locator("#set-temperature").fill("0.5")
    view.locator("#set-seed").fill(str(seed))
    view.get_by_role("spinbutton", name="tokens", exact=True).fill("55")
    view.get_by_role("button", name="Write", exact=True).click()
    view.locator(".sums dd").first.wait_for()
    passes = view.locator(".speculation .pass")
    written = " ".join(each.get_attribute("data-written") for each in passes.all())
    assert [int(token) for token in written.split()] == expected["ids"]
    sums = dict(zip(view.locator(".sums dt").all_inner_texts(), view.locator(".sums dd").all_inner_texts()))
    assert int(sums["passes of the model"]) == passes.count()
    assert int(sums["passes saved"]) == 55 - passes.count()
    accepted, refused = view.locator(".guess.accepted"), view.locator("s.guess.refused")
    assert accepted.count() == int(sums["accepted"].split(",")[0]) > 0 and refused.count() > 0
    assert all("✓" in text for text in accepted.all_inner_texts())
    assert all("✗" in text for text in refused.all_inner_texts())
    for each in view.locator(".pass:has(.refused) .own").all_inner_texts():
        assert each.startswith("→")


def test_what_is_wrong_is_said(view):
    alert = view.get_by_role("alert")
    open_part(view, "Beam search")
    view.get_by_role("spinbutton", name="tokens", exact=True).fill("500")
    view.get_by_role("button", name="Search", exact=True).click()
    alert.get_by_text("tokens is 500: it must be a whole number from 1 to 200").wait_for()
    open_part(view, "Speculative decoding")
    view.locator("#set-xtc_probability").fill("0.5")
    view.get_by_role("button", name="Write", exact=True).click()
    alert.get_by_text("xtc_probability is set: speculative decoding cannot keep its distribution").wait_for()
