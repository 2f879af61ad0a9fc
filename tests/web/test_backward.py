"""The view Backward: a text through a model and back, seen in a browser and asked for without one."""

import base64
import inspect
import json
import math
import threading

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page needs starlette: pip install -e .[test-web]")

from axe_playwright_python.sync_playwright import Axe
from web_testing import served

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.inspection import inspect_tensor, inspect_text, record
from minillm.inspection.attention_pattern import observe_attention
from minillm.inspection.source_lines import forward_passages, gradient_passages
from minillm.inspection.table import folded, json_lines, verdict_of
from minillm.layers import attention as attention_module
from minillm.layers import mlp
from minillm.lessons.small_model import small_model
from minillm.models.mistral import Mistral, MistralConfig
from minillm.web.play import backward, passes, reading
from minillm.web.play.heat_maps import heat_map, plane, small_map
from minillm.web.play.passes import Passes
from minillm.web.play.studio import Studio
from minillm.web.read.operation import Place, Tie

TEXT = "The list has a method that returns the number of items in the list"  # what the page begins with
SHORT = dict(vocab_size=11, context_length=9, n_layer=3, n_head=4, d_model=8)
MODELS = {
    "gpt2": lambda dtype="float32": minillm.GPT2(minillm.GPT2Config(**SHORT), dtype=dtype),
    "grouped heads": lambda dtype="float32": minillm.Llama(
        minillm.LlamaConfig(**SHORT, n_kv_head=2, d_ff=12, head_dim=4), dtype=dtype
    ),
    "sliding window": lambda dtype="float32": Mistral(
        MistralConfig(**SHORT, n_kv_head=2, d_ff=12, head_dim=4, sliding_window=3), dtype=dtype
    ),
}
LONG = 120_000  # milliseconds that a check may take on a loaded machine
EVERY_MODEL = pytest.mark.parametrize("name", list(MODELS))


class Letters:
    """A tokenizer of eleven letters; others are left out."""

    def encode(self, text):
        return ["abcdefghijk".index(letter) for letter in text if letter in "abcdefghijk"]

    def decode(self, ids):
        return "".join("abcdefghijk"[i] for i in ids)


def studio_of(name, tmp_path, dtype="float32"):
    return Studio(randomised(MODELS[name](dtype)).eval(), Letters(), name, tmp_path)


def answer_of(passes_, text):
    return list(passes_.run(text))[-1]["pass"]


def numbers_in(sent):
    """The cells of a map as numbers, by the format that heat_maps.py describes."""
    raw = base64.b64decode(sent["cells"])
    kind = np.float32 if sent["type"] == "float32" else np.int8
    cells = np.frombuffer(raw, kind).reshape(sent["rows"], sent["columns"])
    return cells if kind == np.float32 else np.where(cells == -128, np.nan, cells * (sent["scale"] / 127))


# ------------------------------------------------------------------------------------------------- the numbers


def test_the_first_text_is_as_long_as_the_model_takes(tmp_path):
    studio = studio_of("gpt2", tmp_path)
    taken = backward.example(Passes(studio))
    assert taken == "The list has a method"  # one more word, and it has 11 of the letters
    assert answer_of(Passes(studio), taken)["total"]["tokens"] > 0
    assert backward.example(Passes(Studio(small_model().model, small_model().tokenizer, "small", tmp_path))) == TEXT


@EVERY_MODEL
def test_numbers_are_those_of_inspect(name, tmp_path):
    """Row for row, digit for digit, what `minillm inspect --json` prints, and its folded rows."""
    studio = studio_of(name, tmp_path)
    answer = answer_of(Passes(studio), "dbebfjcg")
    inspection = inspect_text(studio.model.replica(), Letters(), "dbebfjcg")
    shown = [*answer["activations"], *answer["parameters"], answer["total"]]
    assert [json.dumps(row) for row in shown] == json_lines(inspection).splitlines()
    for kind, tensors in (("activations", inspection.record.activations), ("parameters", inspection.record.parameters)):
        rows = [tensor for tensor in folded(tensors, set()) if tensor.name.endswith(" +")]
        assert len(rows) == 3
        for block, tensor in enumerate(rows):
            row = answer["folded"][kind][block]
            assert (row["tensor"], row["std"]) == (tensor.name, tensor.values.std)
            assert row["gradient_norm"] == tensor.gradient.norm
    assert answer["open"] == [0] and answer["attention"] == 3


def test_losses_of_tokens_add_up_to_the_loss(tmp_path, monkeypatch):
    studio = studio_of("gpt2", tmp_path)
    answer = answer_of(Passes(studio), "dbebfjcg")
    assert len(answer["losses"]) == 7 == len(answer["tokens"]) - 1
    assert np.mean(answer["losses"]) == pytest.approx(answer["total"]["loss"], rel=1e-6)
    # The head walks long texts in parts: two rows of logits at a time give the same.
    monkeypatch.setitem(minillm.layers.linear_cross_entropy.CHUNK_LOGITS, "cpu", 2 * SHORT["vocab_size"])
    parted = Passes(studio)
    assert answer_of(parted, "dbebfjcg")["losses"] == pytest.approx(answer["losses"], rel=1e-6)
    for maps in (parted.of("dbebfjcg").maps["logits"], Passes(studio).of("dbebfjcg").maps["logits"]):
        assert (maps["values"]["rows"], maps["gradient"]["rows"]) == (7, 7)
    opened = parted.opened("dbebfjcg", "logits")
    assert opened.values.shape == opened.gradient.shape == (7, 11)


def test_the_model_of_the_studio_stays_as_it_was(tmp_path):
    studio = studio_of("gpt2", tmp_path)
    before = {name: (id(p.value), p.value.copy()) for name, p in studio.model.parameters().items()}
    shown = Passes(studio)
    answer_of(shown, "dbebfjcg")
    shown.opened("dbebfjcg", "h.0.attn.q")
    shown.attention("dbebfjcg", 1)
    assert all(not layer.training and layer._saved is None for _, layer in studio.model.layers())
    for name, parameter in studio.model.parameters().items():
        assert parameter.grad is None and id(parameter.value) == before[name][0]
        np.testing.assert_array_equal(parameter.value, before[name][1])
    assert (
        shown.model.parameters()["transformer.wte.weight"].value
        is studio.model.parameters()["transformer.wte.weight"].value
    )


# ---------------------------------------------------------------------------------------------------- the maps


def test_a_block_is_shown_by_the_number_farthest_from_0():
    matrix = np.random.default_rng(0).normal(0, 1, (300, 1000)).astype(np.float32)
    sent = heat_map(matrix)
    assert (sent["rows"], sent["columns"], sent["block"], sent["of"]) == (100, 125, [3, 8], [300, 1000])
    cells = numbers_in(sent)
    for row, column in ((0, 0), (57, 99), (99, 124)):
        block = matrix[3 * row : 3 * row + 3, 8 * column : 8 * column + 8].reshape(-1)
        assert cells[row, column] == block[np.abs(block).argmax()]
    closer = heat_map(matrix, (171, 235, 760, 824))
    assert closer["block"] == [1, 1] and closer["from"] == [171, 760]
    np.testing.assert_array_equal(numbers_in(closer), matrix[171:235, 760:824])


def test_what_is_no_number_is_seen_in_every_map():
    matrix = np.zeros((200, 300), np.float32)
    matrix[150, 200] = np.nan
    assert np.isnan(numbers_in(heat_map(matrix))).sum() == 1
    assert np.isnan(numbers_in(small_map(np.array([[1.0, np.nan, -2.0]]), (1, 1), (1, 3)))).sum() == 1


def test_bytes_are_bounded(tmp_path):
    """A text of 200 tokens, a vocabulary of 3,000: no answer has more than its maps may."""
    config = minillm.GPT2Config(vocab_size=3000, context_length=256, n_layer=1, n_head=2, d_model=160)
    tokenizer = Letters()
    studio = Studio(minillm.GPT2(config).eval(), tokenizer, "wide", tmp_path)
    shown, text = Passes(studio), "abcdefghij" * 20
    names = [row["tensor"] for kind in ("activations", "parameters") for row in answer_of(shown, text)[kind]]
    little = backward.little_maps(shown, {"text": text, "names": names})
    assert sorted(little) == sorted(names)
    for maps in little.values():
        assert all(sent is None or len(sent["cells"]) <= 2100 for sent in maps.values())
    for name in ("logits", "wte.weight", "h.0.mlp.c_fc"):
        opened = backward.tensor(shown, {"text": text, "name": name})
        assert all(len(opened[which]["cells"]) <= 87_500 for which in ("values", "gradient"))
    pattern = backward.attention(shown, {"text": text, "block": 0, "head": 1})
    assert pattern["maps"]["p"]["block"] == [2, 2]
    closer = backward.attention(shown, {"text": text, "block": 0, "head": 1, "window": [100, 164, 100, 164]})
    assert closer["maps"]["p"]["block"] == [1, 1] and closer["maps"]["p"]["from"] == [100, 100]


@EVERY_MODEL
def test_opened_tensors_are_whole(name, tmp_path):
    """Each has the numbers that its row is made of, and the gradient that record() keeps."""
    studio = studio_of(name, tmp_path)
    shown, ids = Passes(studio), np.array([Letters().encode("dbebfjcg")])
    answer = answer_of(shown, "dbebfjcg")
    last = [row for row in answer["activations"] if row["tensor"] in ("logits", "loss")]
    for row in [*answer["activations"][:14:2], *last, *answer["parameters"][::9]]:
        opened = shown.opened("dbebfjcg", row["tensor"])
        assert opened.values.size == math.prod(row["shape"]) == opened.gradient.size
        assert np.abs(opened.values).max() == row["max_abs"]
        kept = record(studio.model.replica(), ids[:, :-1], ids[:, 1:], keep=row["tensor"]).gradients[row["tensor"]]
        np.testing.assert_array_equal(opened.gradient, plane(kept, 7))


# ----------------------------------------------------------------------------------------------------- attention


@EVERY_MODEL
def test_attention_and_its_gradients(name, tmp_path):
    """p sums to 1; one element of dloss/dp and one of dloss/ds, in the layer below the top, by finite differences."""
    model = randomised(MODELS[name]("float64"))
    ids = np.array([Letters().encode("dbebfjcga")])
    ids, targets = ids[:, :-1], ids[:, 1:]
    layers = observe_attention(model, ids, targets)
    assert len(layers) == 3
    head, i, j = 2, 5, 4
    pattern = layers[1].pattern(head)
    np.testing.assert_allclose(pattern.p.sum(axis=1), 1, rtol=1e-12)
    assert (np.triu(pattern.p, 1) == 0).all() and (np.triu(pattern.ds, 1) == 0).all()
    window = layers[1].window
    assert (window == 3) is (name == "sliding window")
    if window:
        assert (np.tril(pattern.p, -window) == 0).all() and (np.tril(pattern.dp, -window) == 0).all()
    for part, found in (("p", pattern.dp[i, j]), ("s", pattern.ds[i, j])):
        measured = slope(model, ids, targets, part, (head, i, j))
        assert abs(found) > 1e-6 and found == pytest.approx(measured, rel=1e-6)


def slope(model, ids, targets, part, at):
    """dloss/dx of one probability (part "p") or score ("s") of the second attention of a pass, measured."""
    right = attention_module.attend
    shift = 0.0

    def attend(q, k, v, mask, factor=None, out=None):
        attend.calls += 1
        if attend.calls != 2:
            return right(q, k, v, mask, factor, out)
        added = np.zeros((q.shape[1], q.shape[2], k.shape[2]))
        added[at] = shift
        if part == "s":
            return right(q, k, v, mask + added, factor, out)
        _, p = right(q, k, v, mask, factor)
        out[...] = (p + added) @ v
        return out, p

    def loss(t):
        nonlocal shift
        shift, attend.calls = t, 0
        return float(model.eval().loss(ids, targets))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "attend", attend)
        h = 1e-4
        return (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)


@EVERY_MODEL
def test_norms_of_a_head(name, tmp_path):
    """dq, dk and dv are those that the record has; k and v of grouped heads belong to the group."""
    studio = studio_of(name, tmp_path, "float64")
    shown = Passes(studio)
    answer_of(shown, "dbebfjcg")
    answer = backward.attention(shown, {"text": "dbebfjcg", "block": 1, "head": 3})
    groups = answer["key_value_heads"]
    assert groups == (4 if name == "gpt2" else 2) and answer["heads"] == 4
    layer, group = answer["layer"], 3 // (4 // groups)
    for letter, head, count in (("q", 3, 4), ("k", group, groups), ("v", group, groups)):
        opened = shown.opened("dbebfjcg", f"{layer}.{letter}")
        for which, array in ((letter, opened.values), (f"d{letter}", opened.gradient)):
            vectors = array.reshape(7, count, -1)[:, head]
            assert answer["norms"][which] == pytest.approx(np.linalg.norm(vectors, axis=1), rel=1e-12)


# --------------------------------------------------------------------------------------------- where it comes from


def test_what_a_tensor_comes_from_and_goes_to(tmp_path):
    """Also where a copy in another order lies between, as in front of Llama's rotation."""
    shown = Passes(studio_of("grouped heads", tmp_path))
    reads = answer_of(shown, "dbebfjcg")["reads"]
    path = "layers.0.self_attn"
    assert reads[f"{path}.q"] == [f"{path}.q_proj"] and reads[f"{path}.v"] == [f"{path}.v_proj"]
    assert reads[f"{path}.attention"] == [f"{path}.{letter}" for letter in "qkv"]
    assert reads["layers.0.residual"] == ["embed_tokens", f"{path}.o_proj"]
    assert reads["logits"] == ["norm"] and reads["loss"] == ["logits"]
    opened = backward.tensor(shown, {"text": "dbebfjcg", "name": "layers.0.input_layernorm"})
    assert opened["to"] == [f"{path}.{letter}_proj" for letter in "qkv"]
    assert backward.tensor(shown, {"text": "dbebfjcg", "name": "norm.weight"})["to"] == ["norm"]


def test_formulas_are_the_derivations_of_the_operations(tmp_path):
    shown = Passes(studio_of("gpt2", tmp_path))
    expected = {
        "h.0.attn.k": ("minillm.layers.attention", "dk_jd = sum_i ds_ij q_id / sqrt(D)"),
        "h.0.mlp.c_fc.weight": ("minillm.layers.linear", "dw_ij = sum_n"),
        "h.1.ln_1": ("minillm.layers.layer_norm", "y_i = n_i w_i + b_i"),
        "logits": ("minillm.layers.cross_entropy", "dL/dz_j = (p_j - q_j) / N"),
    }
    for name, (module, line) in expected.items():
        formulas = backward.tensor(shown, {"text": "dbebfjcg", "name": name})["formulas"]
        marked = {
            formula["module"]: [each["text"] for each in formula["lines"] if each["marked"]] for formula in formulas
        }
        assert any(line in text for text in marked[module]), (name, marked)


# ------------------------------------------------------------------------------------------------- as it runs


def test_progress_and_its_end(tmp_path):
    """Forward, backward, and the weights, in this order and never back; a page that leaves ends the pass."""
    studio, events = studio_of("gpt2", tmp_path), []
    reporter = passes._Reporter(studio.model, events.append, threading.Event())
    Passes(studio).of("dbebfjcg", reporter)
    directions = list(dict.fromkeys(event["direction"] for event in events))
    assert directions == ["forward", "backward", "parameters"]
    done = [event["done"] for event in events]
    assert done == sorted(done) and 0 == done[0] < done[-1] <= 1 and len(set(done)) > 40
    stop = threading.Event()
    stop.set()
    with pytest.raises(passes.Stopped):
        Passes(studio).of("dbebfjcg", passes._Reporter(studio.model, events.append, stop))
    assert answer_of(Passes(studio), "dbebfjcg")["total"]["tokens"] == 7  # and nothing is left behind


def test_a_check_says_what_inspect_says(tmp_path):
    studio = studio_of("gpt2", tmp_path)
    shown = Passes(studio)
    closer = inspect_tensor(studio.model, Letters(), "dbebfjcg", "h.1.mlp.c_fc")
    events = list(backward.checked(shown, studio, {"text": "dbebfjcg", "name": "h.1.mlp.c_fc"}))
    assert events[1] == {"of": len(closer.check.elements)}
    assert [tuple(event["element"]["index"]) for event in events[2:-1]] == [e.index for e in closer.check.elements]
    assert events[-1]["text"] == verdict_of(closer.check) and events[-1]["verdict"] == "passed"


def test_others_are_answered_between_the_steps_of_a_check(tmp_path):
    """A check that waits leaves nothing behind: passes have the numbers that they had, in its thread and in others."""
    studio = studio_of("gpt2", tmp_path)
    before = answer_of(Passes(studio), "dbebfjcg")
    check = backward.checked(Passes(studio), studio, {"text": "dbebfjcg", "name": "h.0.attn.q"})
    assert [next(check) for _ in range(3)][-1]["element"]["verdict"] == "passed"
    assert answer_of(Passes(studio), "dbebfjcg") == before
    assert answer_of(Passes(studio), "abc")["total"]["tokens"] == 2
    other = backward.checked(Passes(studio), studio, {"text": "dbebfjcg", "name": "h.1.mlp.gelu"})
    mixed = [event for pair in zip(check, other) for event in pair]
    verdicts = [event["element"]["verdict"] for event in mixed if "element" in event]
    assert len(verdicts) >= 6 and set(verdicts) == {"passed"}


# --------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "function, arguments, problem",
    [
        (backward.little_maps, {"names": ["wte"] * 65}, "at most 64"),
        (backward.little_maps, {"names": [["wte"]]}, "names (is|must be)"),
        (backward.tensor, {"name": "h.9"}, 'named "h.9"'),
        (backward.tensor, {"name": 3}, "name is 3: it must be a text"),
        (backward.window, {"name": "wte", "window": [0, 8, 0, 4]}, "no part of 7 rows"),
        (backward.window, {"name": "wte", "window": [0, 1.5, 0, 4]}, "four whole numbers"),
        (backward.window, {"name": "wte"}, "window is missing: reload the page"),
        (backward.attention, {"block": 0, "head": 0, "window": [0, 99, 0, 4]}, "no part of"),
        (backward.window, {"name": "wte", "window": [3, 3, 0, 4]}, "no part"),
        (backward.attention, {"block": 3, "head": 0}, "block is 3: it must be a whole number from 0 to 2"),
        (backward.attention, {"block": 0, "head": True}, "head is True: it must be a whole number from 0 to 3"),
        (backward.attention, {"block": 0, "head": 4}, "head is 4: it must be a whole number from 0 to 3"),
        (backward.tensor, {"text": "", "name": "wte"}, "the text is empty"),
        (backward.tensor, {"text": "a" * 100_001, "name": "wte"}, "at most 100,000 are read"),
        (backward.tensor, {"text": ["a"], "name": "wte"}, "it must be a text"),
        (backward.tensor, {"text": "a", "name": "wte"}, "at least 2 are needed"),
        (backward.tensor, {"text": "abcdefghija", "name": "wte"}, "this model takes 10 at most"),
    ],
)
def test_wrong_arguments(tmp_path, function, arguments, problem):
    with pytest.raises(UserError, match=problem):
        function(Passes(studio_of("gpt2", tmp_path)), {"text": "dbebfjcg", **arguments})


def test_a_text_too_long_for_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "MOST_TOKENS", 5)
    with pytest.raises(UserError, match="the text has 8 tokens, this page shows 5 at most: shorten it"):
        answer_of(Passes(studio_of("gpt2", tmp_path)), "dbebfjcg")


# ------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture
def view(page, play):
    """The view of the default model, with its pass and its attention drawn."""
    page.goto(f"{play}#backward")
    page.wait_for_selector(".bw-reads svg")
    return page


def opened(view, name):
    view.locator(f'[data-name="{name}"]').click()
    view.wait_for_function(
        "name => document.querySelector('.bw-tensor h2')?.textContent.startsWith(name + ' ')", arg=name
    )


def run_letters(page, address):
    """The view of a model of letters, after a text that is too long for it."""
    page.goto(f"{address}#backward")
    page.wait_for_selector(".bw-reads svg")
    page.get_by_label("Text").fill("abcdefghijk")
    page.keyboard.press("Control+Enter")
    page.get_by_role("alert").get_by_text("this model takes 10 at most").wait_for()
    page.get_by_label("Text").fill("dbebfjcg")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".bw-reads svg")


def violations(view):
    return [
        (found["id"], [node["html"][:120] for node in found["nodes"]])
        for found in Axe().run(view).response["violations"]
    ]


def test_the_list_shows_the_numbers(view):
    """What the list says of a tensor is inspect's number, cut to four digits by the page's own function."""
    small = small_model()
    record_ = inspect_text(small.model.replica(), small.tokenizer, TEXT).record
    assert view.locator(".bw-row").count() == len(record_.tensors)
    shown = view.evaluate(
        """async (rows) => {
            const { short } = await import("./look/dom.js");
            const text = (name) => document.querySelector(`[data-name="${name}"]`).textContent;
            return rows.map(([name, ...numbers]) => [text(name), numbers.map(short)]);
        }""",
        [[t.name, t.values.mean, t.values.std, t.values.max_abs, t.gradient.norm] for t in record_.tensors],
    )
    for tensor, (text, (mean, std, most, gradient)) in zip(record_.tensors, shown):
        assert text.startswith(f"{tensor.name} ({', '.join(map(str, tensor.shape))})")
        assert f"mean {mean} · std {std} · max {most}" in text and text.endswith(f"gradient norm {gradient}")
    assert f"loss {record_.loss:.4g}, perplexity" in view.locator(".bw-form [role=status]").inner_text()
    assert view.locator(".bw-tokens li").count() == record_.tokens + 1
    view.wait_for_function("() => document.querySelectorAll('.bw-row .heat').length >= 8")


def test_a_cell_is_the_number_of_the_array(view):
    """The map of h.0.attn.q: every cell, the one that the cursor reads out, and the colours of both signs."""
    small = small_model()
    shown = Passes(Studio(small.model, small.tokenizer, "again", None)).opened(TEXT, "h.0.attn.q")
    opened(view, "h.0.attn.q")
    maps = view.evaluate(
        "[...document.querySelectorAll('.bw-maps .heat-frame .heat')].map((canvas) => [...canvas.heat.map.cells])"
    )
    for cells, expected in zip(maps, (shown.values, shown.gradient)):
        np.testing.assert_array_equal(np.array(cells, np.float32), expected.astype(np.float32).reshape(-1))
    view.locator(".bw-maps .heat-frame").first.focus()
    for key in ("ArrowDown",) * 3 + ("ArrowRight",) * 35:
        view.keyboard.press(key)
    text = view.locator(".bw-tensor .readout").inner_text()
    assert "[0, 1, 3, 3]" in text  # head 1, token 3, channel 3: column 35 of heads of 32 channels
    value, gradient = (np.float32(text.split(word)[1].split()[0]) for word in ("value", "gradient"))
    assert (value, gradient) == (shown.values[3, 35].astype(np.float32), shown.gradient[3, 35].astype(np.float32))
    red, blue = np.array(
        view.evaluate(
            """() => {
                const canvas = document.querySelector(".bw-maps .heat-frame .heat");
                const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                return [0, 2].map((channel) => [...data].filter((_, at) => at % 4 === channel));
            }"""
        )
    )
    large = np.abs(shown.values.reshape(-1)) > 0.3
    assert ((red > blue) == (shown.values.reshape(-1) > 0))[large].all()


def test_ways_lead_to_the_neighbours(page, tmp_path):
    """From a tensor to what it comes from, in a block that was folded; and back."""
    with served(studio_of("gpt2", tmp_path)) as address:
        run_letters(page, address)
        assert page.locator('[data-name="h.2.residual"]').count() == 0
        opened(page, "ln_f")
        for name in ("h.2", "h.2.residual"):
            page.locator(".bw-flow").get_by_role("button", name=name, exact=True).first.click()
            page.wait_for_function(
                "name => document.querySelector('.bw-tensor h2').textContent.startsWith(name + ' ')", arg=name
            )
            assert page.locator('.bw-row[aria-current="true"]').get_attribute("data-name") == name
        page.locator(".bw-tensor h2").press("Escape")
        assert page.evaluate("document.activeElement.dataset.name") == "h.2.residual"


def test_statements_are_lit_with_what_they_differentiate(page, tmp_path, monkeypatch):
    """dq of attention, and the forward function of its statement, which did not compute q."""
    lines, first = inspect.getsourcelines(attention_module.attend)
    back, begin = inspect.getsourcelines(attention_module.attend_backward)
    s = next(first + at for at, line in enumerate(lines) if line.startswith("    s = "))
    dq = next(begin + at for at, line in enumerate(back) if line.startswith("    dq = "))
    tie = Tie(Place("attend_backward", dq, dq), (Place("attend", s, s),))
    monkeypatch.setattr(reading, "_ties", lambda name: [tie] if name == "attention" else [])
    reading._statements.cache_clear()
    reading._forward_sources.cache_clear()
    found = backward.tensor(Passes(studio_of("gpt2", tmp_path)), {"text": "dbebfjcg", "name": "h.0.attn.q"})
    (partner,) = [passage for passage in found["forward"] if passage.get("partner")]
    assert (partner["first"], partner["lines"]) == (first, [line.rstrip("\n") for line in lines])
    (lit,) = partner["statements"]
    (tied,) = [each for passage in found["backward"] for each in passage["statements"]]
    assert (lit["first"], tied["first"], tied["lights"]) == (s, dq, [lit["id"]])
    with served(studio_of("gpt2", tmp_path)) as address:
        run_letters(page, address)
        opened(page, "h.0.attn.q")
        page.locator(f'.bw-code [data-id="{tied["id"]}"]').hover()
        assert page.locator(f'.bw-code .lit [data-n="{s}"]').count() == 1
    reading._statements.cache_clear()
    reading._forward_sources.cache_clear()


def test_a_click_goes_closer(view):
    opened(view, "logits")
    readout = view.locator(".bw-tensor .readout")
    assert "farthest from 0 of 1 × 4" in readout.inner_text()
    view.locator(".bw-maps .heat-frame").first.click()
    view.get_by_role("button", name="the whole map").wait_for()
    assert view.evaluate("document.querySelector('.bw-maps .heat').heat.map.block.join()") == "1,1"
    view.keyboard.press("ArrowLeft")
    assert readout.inner_text().startswith("[") and "token" in readout.inner_text()
    view.get_by_role("button", name="the whole map").click()
    assert view.evaluate("document.querySelector('.bw-maps .heat').heat.map.columns") == 128


def test_a_heads_attention(view):
    """Rows of p sum to 1; the row that is pointed at is read out; another head is another pattern."""
    cells = (
        "[...document.querySelectorAll('.bw-patterns .heat-frame .heat')].map((canvas) => [...canvas.heat.map.cells])"
    )
    p, _, ds = (np.array(each).reshape(22, 22) for each in view.evaluate(cells))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(ds.sum(axis=1), 0, atol=1e-6)  # softmax: what one score gains, the others lose
    frame = view.locator(".bw-patterns .heat-frame").first
    frame.focus()
    for _ in range(4):
        view.keyboard.press("ArrowUp")
    for _ in range(6):
        view.keyboard.press("ArrowLeft")
    assert view.locator(".bw-reads h3").inner_text() == "What “tem” (17) reads"
    assert view.locator(".bw-reads path").count() == 18  # a line to each token that it sees
    shown = view.locator(".bw-attention .readout").inner_text().split("\n")
    assert shown[0] == "“tem” (17) reads “␣of” (15)"
    assert float(shown[1].removeprefix("p ")) == pytest.approx(p[17, 15], rel=1e-3)
    view.locator(".bw-reads .query").nth(4).hover()
    assert "(4) reads" in view.locator(".bw-reads h3").inner_text()
    with view.expect_response("**/backward/attention"):
        view.get_by_label("head").select_option("2")
    view.get_by_text("h.0.attn, head 2 of 4.").wait_for()
    assert not np.allclose(view.evaluate(cells)[0], p.reshape(-1))


def test_code_lines_are_those_of_source_lines(view):
    small = small_model()
    tensors = {t.name: t for t in inspect_text(small.model.replica(), small.tokenizer, TEXT).record.tensors}
    for name in ("h.0.mlp.gelu", "h.1.attn.c_attn.weight"):
        opened(view, name)
        passages = [*forward_passages(tensors[name]), *gradient_passages(tensors[name])]
        found = view.evaluate(
            """() => [...document.querySelectorAll(".bw-code .passage:not(.partner)")].map((passage) => [
                passage.dataset.place,
                [...passage.querySelectorAll(".line")].map((line) => line.textContent),
                [...passage.querySelectorAll(".marked")].map((line) => Number(line.dataset.n)),
            ])"""
        )
        assert found == [[each.place, each.lines[0], sorted(each.marked)] for each in passages]
        assert any(marked for _, _, marked in found)


def test_a_check_passes_and_reports(view):
    opened(view, "h.1.ln_2")
    view.get_by_role("button", name="check", exact=True).click()
    verdict = view.locator(".verdict.good")
    verdict.wait_for(timeout=LONG)
    small = small_model()
    closer = inspect_tensor(small.model, small.tokenizer, TEXT, "h.1.ln_2")
    assert verdict.inner_text() == verdict_of(closer.check)
    assert view.locator(".bw-check tbody tr").count() == len(closer.check.elements)


def test_a_wrong_gradient_is_found(page, tmp_path, monkeypatch):
    """A fault in the backward of GELU, seen below it, and not above."""
    right = mlp.gelu_backward
    monkeypatch.setattr(mlp, "gelu_backward", lambda dy, saved: (1.001 * right(dy, saved)[0], right(dy, saved)[1]))
    model = randomised(minillm.GPT2(minillm.GPT2Config(**{**SHORT, "n_layer": 1}))).eval()
    with served(Studio(model, Letters(), "one block", tmp_path)) as address:
        run_letters(page, address)
        opened(page, "h.0.mlp.c_fc")
        page.get_by_role("button", name="check", exact=True).click()
        bad = page.locator(".verdict.bad")
        bad.wait_for(timeout=LONG)
        assert bad.inner_text().startswith("FAILED h.0.mlp.c_fc: its gradient is wrong at (0, ")
        opened(page, "h.0.mlp.gelu")
        page.get_by_role("button", name="check", exact=True).click()
        page.locator(".verdict.good").wait_for(timeout=LONG)


def test_a_check_can_be_stopped(view):
    opened(view, "h.0.attn.c_attn.weight")
    # two clicks in one task of the page: the check may be over before a browser on a busy machine clicks again
    view.get_by_role("button", name="check", exact=True).evaluate("button => { button.click(); button.click(); }")
    view.get_by_text("stopped", exact=True).wait_for()
    view.get_by_role("button", name="check", exact=True).click()
    view.locator(".verdict.good").wait_for(timeout=LONG)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "the text is empty"),
        ("e", "at least 2 are needed"),
        ("the list " * 40, "tokens, this model takes 65 at most"),
    ],
)
def test_bad_texts(view, text, problem):
    view.get_by_label("Text").fill(text)
    view.get_by_role("button", name="Run forward and backward").click()
    view.locator("#message").get_by_text(problem).wait_for()
    assert view.locator(".bw-row").count() == 0
    view.get_by_label("Text").fill("the list")
    view.get_by_role("button", name="Run forward and backward").click()
    view.wait_for_selector(".bw-row")
    assert view.locator("#message").inner_text() == ""


def test_the_keyboard(view):
    """Arrows go through the list, Enter opens, Escape closes and returns to where it was."""
    view.locator(".bw-row").first.focus()
    for _ in range(5):
        view.keyboard.press("ArrowDown")
    assert view.evaluate("document.activeElement.dataset.name") == "h.0.attn.c_attn"
    view.keyboard.press("Enter")
    view.wait_for_selector(".bw-tensor")
    assert view.evaluate("document.activeElement.tagName") == "H2"
    view.keyboard.press("Escape")
    view.wait_for_selector(".bw-attention")
    assert view.evaluate("document.activeElement.dataset.name") == "h.0.attn.c_attn"
    view.keyboard.press("ArrowUp")
    view.keyboard.press("ArrowUp")
    view.keyboard.press("Enter")  # folds the block
    assert view.locator('[data-name="h.0.attn.c_attn"]').is_hidden()
    view.keyboard.press("ArrowDown")
    assert view.evaluate("document.activeElement.textContent").startswith("h.1")
    view.keyboard.press("End")
    assert view.evaluate("document.activeElement.dataset.name") == "ln_f.weight"


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_layout_and_accessibility(page, play, width, scheme):
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{play}#backward")
    page.wait_for_selector(".bw-reads svg")
    page.wait_for_function("() => document.querySelectorAll('.bw-row .heat').length >= 4")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert violations(page) == []
    opened(page, "h.0.mlp.gelu")
    if width == 390:
        page.get_by_role("button", name="check", exact=True).click()
        page.locator(".verdict.good").wait_for(timeout=LONG)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert violations(page) == []


def test_a_second_tab(view, play):
    other = view.context.new_page()
    other.goto(f"{play}#backward")
    other.get_by_label("Text").fill("another text of words")
    other.get_by_role("button", name="Run forward and backward").click()
    other.wait_for_function("() => document.querySelectorAll('.bw-tokens li').length < 23")
    opened(view, "h.0")
    opened(other, "h.0")
    assert view.evaluate("document.querySelector('.bw-maps .heat').heat.map.rows") == 22
    assert other.evaluate("document.querySelector('.bw-maps .heat').heat.map.rows") < 22


def test_light_and_dark_draw_anew(view):
    canvas = "document.querySelector('.bw-patterns .heat-frame .heat')"
    pixel = f"[...{canvas}.getContext('2d').getImageData(21, 0, 1, 1).data].slice(0, 3)"
    light = view.evaluate(pixel)
    view.get_by_role("button", name="light or dark").click()
    view.wait_for_function(f"() => ({pixel})[0] < 60")
    assert min(light) > 200
