"""The view Tokens: the ids of encode, the merges of the engine, and what is said of texts that are too long."""

import os
import re

import pytest

pytest.importorskip("starlette", reason="the page needs starlette: pip install -e .[test-web]")

from minillm.errors import UserError
from minillm.lessons.small_model import small_model
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer, ScoreTokenizer, load_tokenizer
from minillm.web.play.studio import Studio
from minillm.web.play.tokens import LONGEST, SHOWN, Tokens, cut_text

NASTY = [
    "", " ", "\r\n a\r\n\r\n", "👩‍👩‍👧 😀🏽", "e\u0301\u0301 ﬁ नमस्ते", "\x00\x85\u3000\u2028",
    "<|endoftext|>a<|endoftext|><|endof", " don't  \n we're", "\U0010ffff\ufeff", "x" * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def learned():
    return BytePairTokenizer.train("low lower lowest don't été\n" * 3, 320, ["<|endoftext|>"])


def shown_ids(cut):
    return [index for piece in cut["pieces"] for index in piece["ids"]]


def replayed_ids(cut):
    """The merges as the page does them."""
    found = []
    for piece in cut["pieces"]:
        ids = list(piece["start"])
        for left, right, _, token in piece["merges"]:
            ids[left], ids[right] = token, None
        found += [index for index in ids if index is not None]
    return found


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("allowed", ["all", ()])
def test_ids_are_those_of_encode(learned, text, allowed):
    cut = cut_text(learned, text, allowed)
    assert shown_ids(cut) == replayed_ids(cut) == learned.encode(text, allowed, ())
    assert cut["count"] == cut["shown"] == len(shown_ids(cut))
    assert b"".join(bytes.fromhex(cut["tokens"][index]["bytes"]) for index in shown_ids(cut)) == text.encode()
    assert cut["normalized"] is None


def test_other_kinds_of_tokenizers(real_data):
    scores = ScoreTokenizer.from_llama2c(real_data / "stories260K" / "tok512.bin", 512)
    cut = cut_text(scores, "Once upon", "all")
    assert replayed_ids(cut) == scores.encode("Once upon")
    assert cut["scores"] and cut["normalized"] == "▁Once▁upon" and cut["pieces"][0]["added"]
    assert cut["tokens"][scores.bos]["special"]
    characters = CharacterTokenizer.train("hello")
    cut = cut_text(characters, "hole", "all")
    assert shown_ids(cut) == characters.encode("hole") and cut["kind"] == "characters"
    gpt2 = load_tokenizer(real_data / "gpt2")
    for text in NASTY:
        assert replayed_ids(cut_text(gpt2, text, "all")) == gpt2.encode(text, "all", ())


def test_a_token_that_is_no_character_has_bytes_only(learned):
    cut = cut_text(learned, "€", "all")
    assert [cut["tokens"][index]["text"] for index in shown_ids(cut)] == [None] * 3


def test_a_long_text_is_counted_and_its_beginning_shown(learned):
    text = "low lower don't " * 6250
    assert len(text) == 100_000
    cut = cut_text(learned, text, "all")
    ids = learned.encode(text)
    assert cut["count"] == len(ids) and SHOWN <= cut["shown"] < SHOWN + 20
    assert shown_ids(cut) == ids[: cut["shown"]]


def test_a_long_piece_is_not_replayed(learned):
    cut = cut_text(learned, "x" * 50_000, "all")
    assert (
        [piece["long"] for piece in cut["pieces"]] == [True] and len(shown_ids(cut)) == SHOWN and cut["count"] == 50_000
    )


# ---------------------------------------------------------------------------------------- what the page may ask for


@pytest.fixture
def view(learned, tmp_path):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    CharacterTokenizer.train("helo wrd").save_pretrained(tmp_path / "runs" / "letters")
    learned.save_pretrained(tmp_path / "outside")
    return Tokens(Studio(None, learned, "mine", tmp_path / "runs"))


def test_tokenizers_of_the_run_folders(view):
    assert view.tokenizers(None, {"model": 1})["folders"] == ["letters"]
    cut = view.cut(None, {"text": "hello", "folder": "letters"})
    assert (cut["kind"], cut["count"]) == ("characters", 5)
    path = view._studio.runs / "letters"
    CharacterTokenizer.train("abc").save_pretrained(path)
    os.utime(path / "tokenizer.json", (1, 1))
    with pytest.raises(UserError, match="never seen the character 'h'"):
        view.cut(None, {"text": "hello", "folder": "letters"})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "text is missing"),
        ({"text": 3}, "text is 3: it must be a text"),
        ({"text": "x" * (LONGEST + 1)}, f"text has {LONGEST + 1:,} characters: at most {LONGEST:,}"),
        ({"text": "a", "folder": "../outside"}, 'folder: there is no "../outside"'),
        ({"text": "a", "folder": "empty"}, 'folder: there is no "empty"'),
        ({"text": "a\ud800"}, "lone surrogate"),
    ],
)
def test_what_cannot_be_cut_is_said(view, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        view.cut(None, arguments)


def test_a_link_that_leads_out_of_the_run_folders_is_none_of_them(view, tmp_path):
    CharacterTokenizer.train("helo").save_pretrained(tmp_path / "outside")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    assert view.tokenizers(None, {})["folders"] == ["letters"]
    with pytest.raises(UserError, match='folder: there is no "link"'):
        view.cut(None, {"text": "hello", "folder": "link"})


def test_the_first_text_has_what_the_tokenizer_knows(learned, tmp_path):
    letters = CharacterTokenizer.train("once 26")
    for tokenizer in (learned, letters):
        sample = Tokens(Studio(None, tokenizer, "mine", tmp_path)).tokenizers(None, {})["sample"]
        assert cut_text(tokenizer, sample, "all")["count"] > 20
    assert "東京" not in sample and set(sample) == set("once 26")


def test_no_run_folders_at_all(learned, tmp_path):
    assert Tokens(Studio(None, learned, "mine", tmp_path / "none")).tokenizers(None, {})["folders"] == []


# ---------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def opened(page, play):
    page.goto(f"{play}#tokens")
    page.locator("#tokens-main .token").first.wait_for()
    return page


def type_text(page, text):
    page.locator("#tokens-text").fill(text.replace("\r\n", "\n"))
    count = len(small_model().tokenizer.encode(text, "all", ()))
    page.locator("#tokens-main .figures dd").first.filter(has_text=re.compile(f"^{count:,}$")).wait_for()


def ids_in(page, selector):
    return [
        int(re.search(r"id (\d+)", title)[1])
        for title in page.locator(selector).evaluate_all("all => all.map(e => e.title)")
    ]


def test_tokens_have_ids_and_bytes(opened):
    text = "Once upon\r\n a time €"
    opened.get_by_label("line ends").select_option(label="CR LF")
    type_text(opened, text)
    expected = small_model().tokenizer.encode(text)
    assert ids_in(opened, "#tokens-main .token") == expected
    assert "␍" in opened.locator("#tokens-main .tokens").inner_text()
    opened.locator("#tokens-main .token").first.hover()
    assert f"id {expected[0]}" in opened.locator("#tokens-main .told").inner_text()
    opened.locator("#tokens-main summary").click()
    opened.locator("#tokens-main tbody tr").nth(len(expected) - 1).wait_for()
    assert opened.locator("#tokens-main tbody tr").count() == len(expected)
    assert "e2" in opened.locator("#tokens-main tbody").inner_text()


def test_merges_forward_and_back(opened):
    type_text(opened, "there there")
    tokenizer = small_model().tokenizer
    piece = list(tokenizer.trace("there there"))[1]
    assert len(piece.merges) > 2
    opened.locator("#replay-piece").select_option("1")
    row = "#replay-row .token"
    assert ids_in(opened, row) == piece.start
    for _ in piece.merges:
        opened.get_by_role("button", name="forward").click()
    assert ids_in(opened, row) == piece.ids
    assert opened.locator("#replay-told").inner_text().startswith(f"{len(piece.merges)} of {len(piece.merges)}")
    opened.get_by_role("button", name="back").click()
    assert opened.locator(f"{row}.next").count() == 2
    opened.get_by_role("button", name="first").click()
    first = piece.merges[0]
    assert f"rank {first.rank}." in opened.locator("#replay-told").inner_text()
    assert ids_in(opened, row) == piece.start
    opened.locator("#replay-piece").select_option("all")
    opened.get_by_role("button", name="last").click()
    assert ids_in(opened, row) == tokenizer.encode("there there")
    opened.get_by_role("button", name="first").click()
    opened.get_by_role("button", name="play").click()
    opened.locator("#replay-told", has_text=re.compile("^2 of ")).wait_for()
    opened.get_by_role("button", name="pause").click()


def test_a_long_text_is_bounded_with_a_sentence(opened):
    opened.locator("#tokens-text").fill("low lower " * 10_000)
    opened.locator(".cut-off").wait_for(timeout=60_000)
    assert re.match(
        r"The first 2,0\d\d of [\d,]+ tokens are shown; all are counted\.", opened.locator(".cut-off").inner_text()
    )
    opened.locator("#tokens-text").fill("x" * (LONGEST + 1))
    opened.get_by_role("alert").filter(has_text="at most 200,000 are read").wait_for()
    type_text(opened, "short")
    assert opened.locator(".cut-off").count() == 0


def test_what_cannot_be_seen_is_shown(opened):
    type_text(opened, "\u3000there")
    assert "U+3000" in opened.locator("#tokens-main .pieces").inner_text()
    assert opened.locator("#tokens-replay").is_visible()
    type_text(opened, "")
    assert opened.locator("#tokens-replay").is_hidden()
    assert "no tokens" in opened.locator("#tokens-main .tokens").inner_text()


def test_another_tokenizer_beside_it(opened):
    opened.locator("#tokens-second").select_option(index=1)
    opened.locator("#tokens-other h2").wait_for()
    assert "as many as above" in opened.locator("#tokens-other .figures").inner_text()
    opened.locator("#tokens-second").select_option("-")
    opened.locator("#tokens-other").wait_for(state="hidden")


def test_by_keyboard(opened):
    type_text(opened, "there")
    opened.locator("#tokens-main .token").first.focus()
    opened.keyboard.press("ArrowRight")
    assert "token 1," in opened.locator("#tokens-main .told").inner_text()
    opened.keyboard.press("Home")
    assert "token 0," in opened.locator("#tokens-main .told").inner_text()
    opened.locator("#replay-step").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#replay-told").inner_text().startswith("1 of ")
    opened.keyboard.press("End")
    assert ids_in(opened, "#replay-row .token") == small_model().tokenizer.encode("there")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_narrow_and_accessible(opened, theme):
    from axe_playwright_python.sync_playwright import Axe

    opened.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    opened.locator("#tokens-second").select_option(index=1)
    opened.locator("#tokens-other h2").wait_for()
    opened.get_by_role("button", name="forward").click()
    for width in (1280, 390):
        opened.set_viewport_size({"width": width, "height": 844})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(opened)
        assert found.violations_count == 0, found.generate_report()
