"""One pass, written down tensor by tensor: against plain NumPy, closed formulas, measured memory, and finite differences."""

import json
import linecache
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kernel_testing import needs_compiler
from planting import planted

import minillm
from minillm.checks.cases import randomised
from minillm.checks.verdicts import UNTOLD
from minillm.errors import UserError
from minillm.inspection import Check, Inspection, check_tensor, inspect_tensor, inspect_text, record
from minillm.inspection.checking import Element
from minillm.inspection.observation import Observer, observed
from minillm.inspection.source_lines import ROOT, forward_passages, gradient_passages
from minillm.inspection.table import _format_check, format_table, json_lines
from minillm.inspection.tensor_stats import TensorStats
from minillm.layers import (
    attention,
    embedding,
    gelu,
    layer_norm,
    linear,
    linear_cross_entropy,
    rms_norm,
    rotary,
    swiglu,
)
from minillm.models.fine_tuning import LoRA, add_lora

T, C, H, V = 7, 8, 2, 11
GPT2 = minillm.GPT2Config(vocab_size=V, context_length=9, n_layer=2, n_head=H, d_model=C)
LLAMA = minillm.LlamaConfig(
    vocab_size=V, context_length=9, n_layer=2, n_head=4, n_kv_head=2, d_model=C, d_ff=12, head_dim=4
)
IDS = np.array([[3, 1, 4, 1, 5, 9, 2]])
TARGETS = np.array([[1, 4, 1, 5, 9, 2, 6]])
CONFIGS = pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
GPT2_BLOCK = ["ln_1", "attn.c_attn", "attn.q", "attn.k", "attn.v", "attn.attention", "attn.c_proj", "residual", "ln_2"]
GPT2_BLOCK += ["mlp.c_fc", "mlp.gelu", "mlp.c_proj", ""]


class Letters:
    """A tokenizer of eleven letters."""

    def encode(self, text):
        return ["abcdefghijk".index(letter) for letter in text]

    def decode(self, ids):
        return "".join("abcdefghijk"[i] for i in ids)


def made(config, dtype="float64", **changes):
    """A model with weights of ordinary size, so that every gradient is one."""
    kind = minillm.GPT2 if isinstance(config, minillm.GPT2Config) else minillm.Llama
    return randomised(kind(config, dtype=dtype, **changes))


def rows_of(recorded):
    return {tensor.name: tensor for tensor in recorded.tensors}


class TestNumbers:
    def test_activations_are_those_of_plain_numpy(self):
        """GPT-2 again, in textbook lines: its tensors are the rows, in this order."""
        model = made(GPT2)
        recorded = record(model, IDS, TARGETS)
        expected = textbook_gpt2({name: p.value for name, p in model.parameters().items()})
        assert [tensor.name for tensor in recorded.activations] == list(expected)
        for tensor in recorded.activations:
            array = expected[tensor.name]
            assert tensor.shape == array.shape, tensor.name
            found = tensor.values.mean, tensor.values.std, tensor.values.max_abs
            np.testing.assert_allclose(found, (array.mean(), array.std(), np.abs(array).max()), rtol=1e-9, atol=1e-12)
        assert recorded.loss == pytest.approx(float(expected["loss"]), rel=1e-12)

    @CONFIGS
    def test_every_gradient_passes_its_check(self, config):
        """Finite differences know nothing of backward, nor of where the recorder takes a gradient from."""
        model = made(replace(config, n_layer=1))
        names = [tensor.name for tensor in record(model, IDS, TARGETS).tensors]
        assert len(names) > 30
        for name in names:
            recorded = record(model, IDS, TARGETS, keep=name)
            tensor, gradient = rows_of(recorded)[name], recorded.gradients[name]
            assert gradient.shape == tensor.shape
            assert tensor.gradient.norm == pytest.approx(np.linalg.norm(gradient), rel=1e-9)
            check = check_tensor(model, IDS, TARGETS, tensor, gradient)
            assert check.passed and check.worst.error <= 1e-6, check
            assert len(check.elements) == 1 or max(abs(e.numeric) for e in check.elements) > 0

    def test_lora_is_part_of_what_the_layer_returns(self):
        model = made(LLAMA)
        add_lora(model, LoRA(2))
        randomised(model)
        rows = rows_of(record(model, IDS, TARGETS))
        p = {name.removeprefix("model."): parameter.value for name, parameter in model.parameters().items()}
        x = p["embed_tokens.weight"][IDS]
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p["layers.0.input_layernorm.weight"]
        name = "layers.0.self_attn.q_proj"
        added = 2.0 * x @ p[f"{name}.lora_A"].T @ p[f"{name}.lora_B"].T  # alpha / r is 2
        assert rows[f"{name}.lora"].values.std == pytest.approx(added.std(), rel=1e-9)
        assert rows[name].values.std == pytest.approx((x @ p[f"{name}.weight"].T + added).std(), rel=1e-9)

    @CONFIGS
    def test_parameters(self, config):
        model = made(config)
        recorded = record(model, IDS, TARGETS)
        model.train().loss(IDS, TARGETS)
        model.backward()
        names = [name.removeprefix(f"{model.body_name}.") for name in model.parameters()]
        assert [tensor.name for tensor in recorded.parameters] == names
        for tensor, parameter in zip(recorded.parameters, model.parameters().values()):
            assert tensor.gradient.norm == pytest.approx(np.linalg.norm(parameter.grad), rel=1e-9)
            assert tensor.values.max_abs == np.abs(parameter.value).max()

    def test_moments_of_parts(self):
        array = np.random.default_rng(0).normal(3, 2, (7, 5)).astype(np.float32)
        whole, parts = TensorStats.of(array), TensorStats.of(array[:2]) + TensorStats.of(array[2:])
        assert whole.count == parts.count == 35 and whole.max_abs == parts.max_abs == np.abs(array).max()
        for stats in (whole, parts):
            found = stats.mean, stats.std, stats.norm
            np.testing.assert_allclose(found, (array.mean(), array.std(), np.linalg.norm(array)), rtol=1e-5)

    @CONFIGS
    def test_low_precision(self, config):
        """bfloat16 keeps 8 bits: the tensors are the same to a few per cent."""
        full, half = record(made(config, "float32"), IDS, TARGETS), record(made(config, "bfloat16"), IDS, TARGETS)
        for tensor, other in zip(full.activations, half.activations):
            assert (tensor.name, tensor.flops) == (other.name, other.flops)
            assert other.values.std == pytest.approx(tensor.values.std, rel=0.05)
            assert other.gradient.norm == pytest.approx(tensor.gradient.norm, rel=0.1)

    def test_what_is_not_a_number_shows(self):
        array = np.ones(1 << 19)
        array[7] = np.nan
        assert np.isnan(TensorStats.of(array).max_abs) and np.isnan(TensorStats.of(array[::-1]).max_abs)
        model = made(GPT2, "float32")
        model.parameters()["transformer.h.1.ln_1.bias"].value[3] = np.nan
        inspection = inspect_text(model, Letters(), "dbebfjcg")
        rows = rows_of(inspection.record)
        assert np.isnan(rows["h.1.ln_1"].values.max_abs) and not np.isnan(rows["h.0"].values.max_abs)
        assert "perplexity nan" in format_table(inspection)
        assert json.loads(json_lines(inspection).splitlines()[-1])["loss"] is None

    def test_logits_in_parts_are_one_row(self, monkeypatch):
        """The fused head walks the rows in chunks; two rows of logits at a time give what all at once give."""
        model = made(GPT2)
        whole = record(model, IDS, TARGETS, keep="logits")
        monkeypatch.setitem(linear_cross_entropy.CHUNK_LOGITS, "cpu", 2 * V)
        parts = record(model, IDS, TARGETS, keep="logits")
        logits, expected = rows_of(parts)["logits"], rows_of(whole)["logits"]
        assert logits.shape == expected.shape == (T, V)
        assert logits.values.mean == pytest.approx(expected.values.mean, rel=1e-12)
        assert logits.flops == expected.flops
        np.testing.assert_allclose(parts.gradients["logits"], whole.gradients["logits"], rtol=1e-12)
        assert check_tensor(model, IDS, TARGETS, logits, parts.gradients["logits"]).passed


def textbook_gpt2(p):
    """Every tensor of the loss of a GPT-2 of two blocks by its name."""

    def norm(x, name):
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return normed * p[f"{name}.weight"] + p[f"{name}.bias"]

    def dense(x, name):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    t = {"wte": p["transformer.wte.weight"][IDS], "wpe": p["transformer.wpe.weight"][:T]}
    x = t["embd_dropout"] = t["wte"] + t["wpe"]
    for block in ("h.0", "h.1"):
        path = f"transformer.{block}"
        t[f"{block}.ln_1"] = norm(x, f"{path}.ln_1")
        qkv = t[f"{block}.attn.c_attn"] = dense(t[f"{block}.ln_1"], f"{path}.attn.c_attn")
        q, k, v = (part.reshape(1, T, H, C // H).transpose(0, 2, 1, 3) for part in np.split(qkv, 3, axis=-1))
        t |= {f"{block}.attn.q": q, f"{block}.attn.k": k, f"{block}.attn.v": v}
        scores = np.where(np.tri(T, dtype=bool), q @ k.transpose(0, 1, 3, 2) / np.sqrt(C // H), -np.inf)
        weights = np.exp(scores)
        y = t[f"{block}.attn.attention"] = weights / weights.sum(-1, keepdims=True) @ v
        t[f"{block}.attn.c_proj"] = dense(y.transpose(0, 2, 1, 3).reshape(1, T, C), f"{path}.attn.c_proj")
        x = t[f"{block}.residual"] = x + t[f"{block}.attn.c_proj"]
        t[f"{block}.ln_2"] = norm(x, f"{path}.ln_2")
        t[f"{block}.mlp.c_fc"] = t[f"{block}.ln_2"] @ p[f"{path}.mlp.c_fc.weight"]  # the bias is the GELU's
        h = t[f"{block}.mlp.c_fc"] + p[f"{path}.mlp.c_fc.bias"]
        t[f"{block}.mlp.gelu"] = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        t[f"{block}.mlp.c_proj"] = dense(t[f"{block}.mlp.gelu"], f"{path}.mlp.c_proj")
        x = t[block] = x + t[f"{block}.mlp.c_proj"]
    t["ln_f"] = norm(x, "transformer.ln_f")
    logits = t["logits"] = (t["ln_f"] @ p["transformer.wte.weight"].T)[0]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    t["loss"] = -log_p[np.arange(T), TARGETS[0]].mean()
    return t


class TestKept:
    def test_explicit_sizes(self):
        """float32, one row: each of these is an array that some backward reads."""
        rows = rows_of(record(made(GPT2, "float32"), IDS, TARGETS))
        number = 4
        sizes = {
            "wte": 8 * T,  # ids
            "embd_dropout": 0,  # x itself: no layer needs it
            "h.0.ln_1": (T * C + T) * number,  # the normed rows with their rstd; y, which c_attn reads, is made again
            "h.0.attn.c_attn": 3 * T * C * number,  # q, k and v look into it
            "h.0.attn.q": 0,
            "h.0.attn.k": 0,
            "h.0.attn.v": 0,
            "h.0.attn.attention": (T * C + H * T * T + T * C) * number,  # y, P, and y with its heads side by side
            "h.0.attn.c_proj": 0,
            "h.0.residual": 0,
            "h.0.ln_2": (T * C + T) * number,
            "h.0.mlp.c_fc": 0,
            "h.0.mlp.gelu": 2 * T * 4 * C * number,  # z + bias and the gate; y, which c_proj reads, is made again
            "h.0.mlp.c_proj": 0,
            "h.0": 0,
            "ln_f": (T * C + T) * number,  # its y was used up by the head
            "logits": 0,  # they never exist whole
            "loss": (T * C + V * C) * number,  # dx and dweight, computed in advance
        }
        found = {name: rows[name].saved_bytes for name in sizes}
        # y with its heads side by side is c_proj's copy: a view where the heads lie side by side already
        sizes["h.0.attn.attention"] = (T * C + H * T * T) * number
        assert found == sizes

    @CONFIGS
    def test_measured_memory(self, config):
        """What is alive after forward, as tracemalloc sees it, is what the table says, apart from a few Python objects."""
        config = replace(config, context_length=256, d_model=64, vocab_size=500, d_ff=128, n_head=4)
        model = made(config, "float32")
        ids = np.random.default_rng(0).integers(0, 500, (1, 256))
        kept = sum(tensor.saved_bytes for tensor in record(model, ids, ids).tensors)
        model.train()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            loss = model.loss(ids, ids)
            measured = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert loss > 0 and kept > 2_000_000
        # the grad buffer of the head and the tables of angles may be there since the first pass
        assert kept - 500 * 64 * 4 - 2 * 256 * 8 * 4 * 2 <= measured <= 1.02 * kept

    def test_no_block_is_computed_twice(self):
        model = made(GPT2)
        expected = [(t.name, t.saved_bytes, t.gradient) for t in record(model, IDS, TARGETS).tensors]
        model.body.recompute = True
        assert [(t.name, t.saved_bytes, t.gradient) for t in record(model, IDS, TARGETS).tensors] == expected
        assert model.body.recompute

    def test_a_buffer_counts_once(self):
        model = made(LLAMA, "float32")
        kept = sum(tensor.saved_bytes for tensor in record(model, IDS, TARGETS).tensors)
        model.loss(IDS, TARGETS)
        found, waiting = {}, [layer._saved for _, layer in model.layers()]
        while waiting:
            item = waiting.pop()
            if isinstance(item, (tuple, list)):
                waiting.extend(item)
            elif isinstance(item, np.ndarray):
                while isinstance(item.base, np.ndarray):
                    item = item.base
                found[item.__array_interface__["data"][0]] = item.nbytes
        for parameter in model.parameters().values():
            found.pop(parameter.value.__array_interface__["data"][0], None)
        assert kept == sum(found.values())


class TestOperations:
    def test_gpt2(self):
        """24 T C^2 + 4 C T(T+1)/2 for a block, 2 T C V for the head; backward twice that."""
        recorded = record(made(GPT2), IDS, TARGETS)
        forward, backward = (sum(tensor.flops[i] for tensor in recorded.tensors) for i in (0, 1))
        attention = 2 * 4 * C * T * (T + 1) // 2
        products = 2 * (24 * T * C**2) + 2 * T * C * V
        assert forward == products + attention and backward == 2 * forward
        matrices = 2 * 12 * C**2 + C * V  # the parameters that tokens pass through
        assert forward + backward - 3 * attention == 6 * matrices * T

    def test_llama(self):
        """Fewer keys and values than queries, a gated MLP."""
        recorded = record(made(LLAMA), IDS, TARGETS)
        heads, kv_heads, width, inner = 4, 2, 4, 12
        block = (
            2 * T * C * width * (2 * heads + 2 * kv_heads)
            + 2 * T * 3 * C * inner
            + 4 * heads * width * T * (T + 1) // 2
        )
        assert sum(tensor.flops[0] for tensor in recorded.tensors) == 2 * block + 2 * T * C * V
        assert all(tensor.flops[1] == 2 * tensor.flops[0] for tensor in recorded.tensors)

    def test_frozen_weights_have_no_product_of_their_own(self):
        model = made(LLAMA)
        add_lora(model, LoRA(2))
        rows = rows_of(record(model, IDS, TARGETS))
        name = "layers.0.self_attn.q_proj"
        assert rows[name].flops == (2 * T * C * 16, 2 * T * C * 16)
        assert rows[f"{name}.lora"].flops == (2 * T * 2 * (C + 16), 4 * T * 2 * (C + 16))
        assert rows["logits"].flops == (2 * T * C * V, 2 * T * C * V)
        assert rows[f"{name}.weight"].frozen and rows[f"{name}.weight"].gradient is None
        assert rows[f"{name}.lora_B"].gradient.norm > 0
        # the table below does not learn, but the gradient arrives there
        assert rows["embed_tokens"].gradient.norm > 0
        assert inspect_tensor(model, Letters(), "dbebfjcg", "embed_tokens").check.passed


class TestObservation:
    @CONFIGS
    def test_leaves_no_trace(self, config):
        model = made(config)
        modules = (attention, embedding, gelu, layer_norm, linear, linear_cross_entropy, rms_norm, rotary, swiglu)
        before = [dict(vars(module)) for module in modules]
        attributes = [set(vars(layer)) for _, layer in model.layers()]
        with pytest.raises(RuntimeError, match="stop"), observed(model, Observer()):
            assert [dict(vars(module)) for module in modules] != before
            raise RuntimeError("stop")
        assert [dict(vars(module)) for module in modules] == before
        assert [set(vars(layer)) - {"_saved", "training"} for _, layer in model.layers()] == attributes

    @CONFIGS
    def test_changes_nothing(self, config):
        model = made(config)
        loss = model.loss(IDS, TARGETS)
        model.backward()
        gradients = {name: np.array(p.grad) for name, p in model.parameters().items()}
        model.zero_grad()
        with observed(model, Observer()):
            assert model.loss(IDS, TARGETS) == loss
            model.backward()
        for name, parameter in model.parameters().items():
            np.testing.assert_array_equal(parameter.grad, gradients[name])

    def test_backward_of_a_forward_that_was_not_observed(self):
        model = made(GPT2)
        model.loss(IDS, TARGETS)
        with observed(model, Observer()):
            model.backward()
        assert all(p.grad is not None for p in model.parameters().values())

    def test_threads_do_not_see_one_another(self):
        """While one thread is in the middle of an observed pass, others run and observe models of their own."""
        model, other = made(GPT2), made(LLAMA)
        alone = [record(each, IDS, TARGETS) for each in (model, other)]
        loss, found = float(other.eval().loss(IDS, TARGETS)), []
        before = dict(vars(linear))

        def meanwhile():
            found.append(float(other.eval().loss(IDS, TARGETS)))
            found.append(record(other, IDS, TARGETS))

        class Interrupted(Observer):
            def after_operation(self, call):
                if (call.layer, call.operation) == ("h.0.attn.c_attn", "linear"):
                    thread = threading.Thread(target=meanwhile)
                    thread.start()
                    thread.join()
                seen.append((call.layer, call.operation))

        seen = []
        with observed(model, Interrupted()):
            model.train().loss(IDS, TARGETS)
            model.backward()
        assert {layer.split(".")[0] for layer, _ in seen} == {"wte", "wpe", "h", "ln_f", "loss_head"}
        assert found[0] == loss and vars(linear) == before
        for expected, again in ((alone[1], found[1]), (alone[0], record(model, IDS, TARGETS))):
            assert [t.name for t in again.tensors] == [t.name for t in expected.tensors]
            for tensor, same in zip(again.tensors, expected.tensors):
                assert (tensor.values, tensor.gradient) == (same.values, same.gradient)

    @CONFIGS
    def test_sees_every_array(self, config):
        """`see` is given what the statistics are made of: values and gradient of every row."""
        seen = {}

        def see(tensor, which, array):
            seen[tensor, which] = TensorStats.of(array)

        for tensor in record(made(config), IDS, TARGETS, see=see).tensors:
            assert seen[tensor, "values"] == tensor.values
            assert seen[tensor, "gradient"] == tensor.gradient


class TestCode:
    @CONFIGS
    def test_marked_lines_are_in_the_files(self, config):
        """Every tensor has code, with a line marked in each function, and what is shown is what the file has there."""
        for tensor in record(made(config), IDS, TARGETS).tensors:
            forward, backward = forward_passages(tensor), gradient_passages(tensor)
            assert forward and backward, tensor.name
            for passage in (*forward, *backward):
                path, _, first = passage.place.rpartition(":")
                shown = str(passage).splitlines()[1:]
                assert passage.marked and any(line.startswith(">") for line in shown), (tensor.name, passage.title)
                for number, line in enumerate(shown, int(first)):
                    assert line[8:].strip() == linecache.getline(str(ROOT / path), number).strip()

    @pytest.mark.parametrize(
        "config, name, forward, backward",
        [
            (GPT2, "h.0.mlp.gelu", "x * gate", "w.T, dx, add=dx is not None).reshape(x.shape)"),
            (GPT2, "h.0.mlp.c_fc", "(N, I) @ (I, O)", "dx = xp.multiply(slope, dy, out=slope)"),
            (
                GPT2,
                "h.0.attn.attention",
                "y = matmul(dropped(p, factor), v",
                "w.T, dx, add=dx is not None).reshape(x.shape)",
            ),
            (GPT2, "h.0.attn.q", "q, k, v = split_qkv(", "dq = matmul(ds, k)"),
            (GPT2, "h.0.attn.v", "q, k, v = split_qkv(", "dv = matmul("),
            (GPT2, "h.0.attn.c_attn", "(N, I) @ (I, O)", "dk, dv = sum_heads(dk, n_kv_head)"),
            (GPT2, "h.0.residual", "return x + branch", "dx = dx + self.ln_2.backward("),
            (GPT2, "h.1", "return x + branch", "dx -= xp.multiply(normed, along_normed"),
            (GPT2, "h.0", "return x + branch", "dx = block.backward(dx) if kept is None"),
            (GPT2, "embd_dropout", "x = self.wte.forward(ids", "return dx + self.ln_1.backward("),
            (GPT2, "logits", "(n, C) @ (C, V)", "p[rows, t] -= "),
            (GPT2, "ln_f", "y += bias", "out=dx[chunk]"),
            (GPT2, "h.0.attn.c_attn.weight", "w = weight.T if transposed else weight", "(I, N) @ (N, O)"),
            (GPT2, "h.0.mlp.c_fc.bias", "x = x + bias", "dbias = "),
            (GPT2, "wte.weight", "weight[ids]", "dweight[sorted_ids[starts]] +="),
            (GPT2, "wte.weight", "(n, C) @ (C, V)", "(v, n) @ (n, C)"),
            (
                LLAMA,
                "layers.0.self_attn.q",
                "y[..., first] = a * cos - b * sin",
                "dq, dk, dv = backward(dy, saved)",
            ),
            (LLAMA, "layers.0.self_attn.q_proj", "(N, I) @ (I, O)", "y[..., second] = b * cos + a * sin"),
            (LLAMA, "layers.0.self_attn.k", "y[..., second] = b * cos + a * sin", "dk = matmul("),
            (GPT2, "h.0.attn.c_attn", "(N, I) @ (I, O)", "dv = matmul("),
            (LLAMA, "layers.0.mlp.up_proj", "(N, I) @ (I, O)", "dup *= dh"),
            (GPT2, "h.0.ln_1.weight", "y = normed * weight", "dweight = ones @ product"),
        ],
    )
    def test_the_line_is_found(self, config, name, forward, backward):
        tensor = rows_of(record(made(config), IDS, TARGETS))[name]
        for passages, text in ((forward_passages(tensor), forward), (gradient_passages(tensor), backward)):
            marked = [line for passage in passages for line in str(passage).splitlines() if line.startswith(">")]
            assert any(text in line for line in marked), (text, marked)

    def test_no_line_of_a_neighbour_is_marked(self):
        """dq, dk and dv are results of one function: each tensor has its own."""
        rows = rows_of(record(made(LLAMA), IDS, TARGETS))
        for name, lines in (("q", "dq = matmul("), ("k", "dk = matmul("), ("v", "dv = matmul(")):
            shown = "\n".join(map(str, gradient_passages(rows[f"layers.0.self_attn.{name}"])))
            marked = [line for line in shown.splitlines() if line.startswith(">")]
            found = [
                text
                for text in ("dq = matmul(", "dk = matmul(", "dv = matmul(")
                if any(text in line for line in marked)
            ]
            assert found == [lines]


class TestFaults:
    """A fault in one backward shows in the tensors below it, and not in those above."""

    @pytest.mark.parametrize(
        "module, where, function, right, wrong, faulty, sound",
        [
            (gelu, "mlp", "gelu_backward", "slope += gate", "slope += 0", "h.1.mlp.c_fc", "h.1.mlp.gelu"),
            (layer_norm, "layer_norm", "layer_norm_backward", "dx *= rstd[:, None]", "dx *= 1", "h.1", "ln_f"),
            (attention, "attention", "attention_backward", "ds *= scale", "ds *= 1", "h.1.attn.q", "h.1.attn.v"),
            (linear, "linear", "linear_backward", "rows.T, dy_rows", "-rows.T, dy_rows", "h.0.mlp.c_fc.weight", "h.0.mlp.c_fc"),
        ],
    )  # fmt: skip
    def test_localised(self, monkeypatch, module, where, function, right, wrong, faulty, sound):
        target = {"mlp": "minillm.layers.mlp"}.get(where, f"minillm.layers.{where}")
        monkeypatch.setattr(f"{target}.{function}", getattr(planted(module, right, wrong), function))
        assert inspect_tensor(made(GPT2), Letters(), "dbebfjcg", sound).check.passed
        check = inspect_tensor(made(GPT2), Letters(), "dbebfjcg", faulty).check
        assert not check.passed and check.worst.error > 1e-3

    def test_a_gradient_that_is_lost(self, monkeypatch):
        monkeypatch.setattr("minillm.layers.layer_norm.layer_norm_backward", _no_dbias)
        assert not inspect_tensor(made(GPT2), Letters(), "dbebfjcg", "h.0.ln_1.bias").check.passed


def _no_dbias(dy, saved, dsum=None):
    dx, dweight, dbias = layer_norm_backward(dy, saved, dsum)
    return dx, dweight, 0 * dbias


layer_norm_backward = layer_norm.layer_norm_backward


class TestText:
    def test_names(self):
        model = made(GPT2, "float32")
        short = inspect_tensor(model, Letters(), "dbebfjcg", "h.1.mlp.c_fc.weight")
        long = inspect_tensor(model, Letters(), "dbebfjcg", "transformer.h.1.mlp.c_fc.weight")
        assert short.check == long.check and short.check.passed
        with pytest.raises(UserError, match=r'no tensor is named "h.1.mlp.gleu"; there are h.1.mlp.gelu, '):
            inspect_tensor(model, Letters(), "dbebfjcg", "h.1.mlp.gleu")

    def test_what_cannot_be_shown(self):
        model = made(GPT2)
        with pytest.raises(UserError, match="the text has 1 token, at least 2"):
            inspect_text(model, Letters(), "a")
        with pytest.raises(UserError, match="the text has 11 tokens, this model takes 10 at most"):
            inspect_text(model, Letters(), "abcdefghijk")
        add_lora(model, LoRA(2))
        with pytest.raises(UserError, match="h.0.ln_1.weight is frozen"):
            inspect_tensor(model, Letters(), "abc", "h.0.ln_1.weight")

    def test_a_verdict_that_cannot_be_told_is_no_pass(self):
        element = Element((0, 2), 1.0, 0.5, 1e-9, 0.5, UNTOLD, "a kink: the slope is 0 on the left and 1 on the right")
        check = Check("h.0.mlp", [Element((0, 0), 1.0, 1.0, 1e-9, 0.9), element])
        assert check.worst is element and not check.passed
        assert "cannot be told here, at (0, 2): a kink: the slope is 0" in _format_check(check)

    def test_dropout_is_off(self):
        plain, dropping = made(GPT2), made(replace(GPT2, dropout=0.5))
        texts = [format_table(inspect_text(model, Letters(), "dbebfjcg")) for model in (plain, dropping)]
        assert texts[0] == texts[1] and "dropout off" in texts[0]

    def test_perplexity_and_totals(self):
        inspection = inspect_text(made(GPT2), Letters(), "dbebfjcg")
        loss = inspection.record.loss
        shown = format_table(inspection)
        assert f"loss {loss:.4f}  perplexity {np.exp(loss):.4f}  over 7 predicted tokens" in shown
        lines = [json.loads(line) for line in json_lines(inspection).splitlines()]
        kept, forward = (sum(line[key] for line in lines[:-1]) for key in ("saved_bytes", "forward_operations"))
        assert (kept, forward) == (lines[-1]["saved_bytes"], lines[-1]["forward_operations"])
        total = next(line for line in shown.splitlines() if line.startswith("total")).split()
        assert total == ["total", f"{kept:,}", f"{forward:,}", f"{2 * forward:,}"]
        assert len(lines) == len(inspection.record.tensors) + 1

    def test_a_deep_model_is_folded(self):
        """A row for a block: what its last tensor has, with the sums of all of them."""
        model = made(replace(GPT2, n_layer=5))
        inspection = inspect_text(model, Letters(), "dbebfjcg")
        names = [line.split("  ")[0] for line in format_table(inspection).splitlines()]
        assert [name for name in names if name.startswith("h.1")] == ["h.1 +"] * 2  # activations, parameters
        block = [f"h.0.{name}".rstrip(".") for name in GPT2_BLOCK]
        assert [name for name in names if name.startswith("h.0")][: len(block)] == block
        opened = format_table(inspection, [3, 4])
        assert "\nh.0 + " in opened and "\nh.3.ln_1 " in opened and "\nh.4.ln_1 " in opened
        assert "+ " not in format_table(inspection, every_block=True)
        rows = rows_of(inspection.record)
        folded = next(line for line in format_table(inspection).splitlines() if line.startswith("h.1 +"))
        kept = sum(tensor.saved_bytes for name, tensor in rows.items() if name.startswith("h.1"))
        assert f" {kept:,} " in folded and f"{rows['h.1'].values.std:.4g}" in folded
        with pytest.raises(UserError, match="--layer 5: the model has the blocks 0 to 4"):
            format_table(inspection, [5])

    @CONFIGS
    def test_on_the_simulator(self, config):
        """The CUDA kernels compute the same tensors, and keep other things for backward."""
        needs_compiler()
        model = made(config, "float32")
        plain = inspect_text(model, Letters(), "dbebfjcg").record
        simulated = inspect_text(model.to("cudasim"), Letters(), "dbebfjcg")
        assert isinstance(simulated, Inspection) and "on cudasim" in format_table(simulated)
        found = rows_of(simulated.record)
        assert list(found) == [tensor.name for tensor in plain.tensors]
        for tensor in plain.tensors:
            other = found[tensor.name]
            assert other.shape == tensor.shape and other.flops == tensor.flops
            assert other.values.max_abs == pytest.approx(tensor.values.max_abs, rel=1e-4)
            assert other.gradient.norm == pytest.approx(tensor.gradient.norm, rel=1e-3, abs=1e-7)


def test_nothing_below_knows_of_it():
    folder = Path(minillm.__file__).parent
    knowing = {
        path.relative_to(folder).parts[0]
        for path in folder.rglob("*.py")
        if "minillm.inspection" in path.read_text(encoding="utf-8")
    }
    assert knowing == {"inspection", "cli", "web"}


def test_rounded_weights_are_the_weights(simulator):
    """On a device products in bfloat16 take copies of the weights: they are used, and not kept beside activations."""
    tokens, found = np.array([[1, 2, 3, 4]]), []
    for device in ("cpu", "cudasim"):
        model = minillm.GPT2(
            minillm.GPT2Config(vocab_size=11, context_length=6, n_layer=1, n_head=2, d_model=64),
            seed=1,
            dtype="bfloat16",
        )
        tensors = record(model.to(device), tokens, tokens).tensors
        found.append(
            {t.name: (len(t.uses), t.flops) for t in tensors if t.name != "logits"}
        )  # whose columns are padded
    assert found[0] == found[1]
    assert {t.name: t.saved_bytes for t in tensors}["h.0.attn.c_proj"] == 0
