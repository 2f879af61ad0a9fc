"""Every tensor of a pass, forward and backward, is PyTorch's: in float64, activation by activation, gradient by gradient."""

import re
import sys
from itertools import takewhile
from pathlib import Path

import intermediates
import numpy as np
import pytest
from intermediates import GRADIENT, MODELS, TOLERANCE, VALUE, compared, inputs, model_of, tensors_of
from planting import planted

from minillm.layers import attention, layer_norm, rms_norm, swiglu

torch = pytest.importorskip("torch", reason="comparison with PyTorch (extra test-peers)")
pytestmark = pytest.mark.peers

# What autograd has and backward does not form, since one formula takes the place of several steps of the derivation.
NEVER_FORMED = re.compile(
    r"loss\.(shifted|exponentials|total|at_target|losses) gradient"  # softmax minus the target, in one line
    r"|.*(norm|ln_[12f])\.(centered|variance|rstd|scaled) gradient"  # of mean and variance; scaled has that of the result
    r"|.*attn\.(products value|scores gradient)"  # q is scaled before the product; the mask changes no gradient
    r"|.*mlp\.(u|gate|sigmoid|silu) gradient"  # the slope of the activation, in one formula
)


def rows_of(kind):
    rows, never_formed = compared(model_of(kind), *inputs())
    return {(row.name, row.which): row for row in rows}, never_formed


@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_and_its_gradient(kind):
    rows, never_formed = rows_of(kind)
    assert not [row for row in rows.values() if not row.is_equal]
    assert not [key for key in map(" ".join, never_formed) if not NEVER_FORMED.fullmatch(key)]
    model = model_of(kind)
    parameters = {name.removeprefix(f"{model.body_name}.") for name in model.parameters()}
    assert {(name, which) for name in parameters for which in (VALUE, GRADIENT)} <= rows.keys()
    block = "h.1.attn" if kind == "gpt2" else "layers.1.self_attn"
    inside = {
        (f"{block}.{name}", which) for name in ("p", "masked", "attention", *"qkv") for which in (VALUE, GRADIENT)
    }
    assert inside <= rows.keys() and len(rows) > 190


@pytest.mark.parametrize("kind", MODELS)
def test_what_the_modules_of_transformers_return(kind, tmp_path):
    """Every module of theirs that has the name of a tensor here, by hooks; attention's probabilities; all gradients.

    In Llama and Qwen3 their norms, angles and softmax compute in float32, whatever the model's precision.
    """
    transformers = pytest.importorskip("transformers")
    model, (ids, targets) = model_of(kind), inputs()
    model.save_pretrained(tmp_path)
    settings = dict(dtype=torch.float64, attn_implementation="eager")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **settings).eval()
    returned = {}

    def keep(name):
        def hook(module, arguments, output):
            output = output[0] if isinstance(output, tuple) else output
            if output.requires_grad:  # the tables of angles do not
                output.retain_grad()
                returned[name] = output

        return hook

    for name, module in theirs.get_submodule(model.body_name).named_modules():
        if name:
            module.register_forward_hook(keep(name))
    out = theirs(torch.tensor(ids), output_attentions=True)
    for tensor in (*out.attentions, out.logits):
        tensor.retain_grad()
    torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), torch.tensor(targets).flatten()).backward()
    block, self_attention = ("h", "attn") if kind == "gpt2" else ("layers", "self_attn")
    returned |= {f"{block}.{i}.{self_attention}.p": p for i, p in enumerate(out.attentions)}
    returned |= dict(logits=out.logits)

    limit, compared_names = TOLERANCE if kind == "gpt2" else 1e-5, set()
    for name, which, array in tensors_of(model, ids, targets):
        expected = returned.get(name)
        if expected is None or name.endswith("c_fc"):  # here without its bias, which the GELU adds
            continue
        expected = expected.detach() if which == VALUE else expected.grad
        if expected is not None:
            expected = expected.numpy().reshape(array.shape)
            assert np.linalg.norm(array - expected) <= limit * np.linalg.norm(expected), (name, which)
            compared_names.add(name)
    assert len(compared_names) >= (17 if kind == "gpt2" else 22), compared_names


# A term that is wrong, where it shows first, and which tensors above it and beside it are still right.
PLACES = [
    (
        "gpt2", attention, "attend_backward", "ds -= row_dot(dy, y)", "ds -= 0",
        ("h.1.attn.masked", GRADIENT),
        r"ln_f.*|h\.1\.(mlp|ln_2|residual|attn\.c_proj).*|h\.1|h\.1\.attn\.(v|v_repeated|attention|p)",
    ),
    (
        "gpt2", layer_norm, "layer_norm_backward", "dx -= (dnormed @ average)[:, None]", "dx -= 0",
        ("ln_f.x", GRADIENT), r"ln_f|ln_f\.(normed|weight|bias)|logits|loss",
    ),
    (
        "gpt2", layer_norm, "layer_norm_backward", "dweight = ones @ product  # (N,) @ (N, C)", "dweight = ones @ dy_rows",
        ("h.0.ln_1.weight", GRADIENT), r"(?!.*ln_\w\.weight$).*",
    ),
    (
        "llama", rms_norm, "rms_norm_backward", "dx -= xp.multiply(normed, along_normed[:, None], out=product)", "dx -= 0",
        ("norm.x", GRADIENT), r"norm|norm\.(normed|weight)|logits|loss",
    ),
    (
        "llama", swiglu, "swiglu_backward", "dgate += 1\n", "dgate += 0\n",
        ("layers.1.mlp.gate_proj", GRADIENT),
        r"norm.*|layers\.1|layers\.1\.mlp\.(down_proj|up_proj(?!\.x)).*|layers\.1\.mlp\.swiglu",
    ),
    (
        "llama", attention, "attend", "    s += mask\n", "    s += mask + 0.01 * s\n",
        ("layers.0.self_attn.masked", VALUE), r"embed_tokens|layers\.0\.(input_layernorm|self_attn\.([qkv]_proj|[qkv]|scores))",
    ),
]  # fmt: skip


@pytest.mark.parametrize("kind, module, function, right, wrong, first, untouched", PLACES)
def test_the_first_wrong_tensor_is_named(kind, module, function, right, wrong, first, untouched, monkeypatch):
    faulty = planted(module, right, wrong)
    monkeypatch.setattr(module, function, getattr(faulty, function))
    rows, _ = rows_of(kind)
    differ = [key for key, row in rows.items() if not row.is_equal]
    assert differ[0] == first
    assert list(takewhile(lambda key: rows[key].is_equal, rows)) == list(rows)[: list(rows).index(first)]
    wrongly = [name for name, which in differ if which == first[1] and re.fullmatch(untouched, name)]
    assert not wrongly
    backward = [key for key in differ if key[1] == GRADIENT]
    assert first[1] == VALUE or differ == backward  # a wrong backward leaves every activation right


def test_the_command_prints_a_line_for_each(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["intermediates.py", "gpt2"])
    with pytest.raises(SystemExit) as ended:
        intermediates.main()
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0 and lines[-2].startswith(
        f"{len(lines) - 2} of {len(lines) - 2} equal PyTorch's to 1e-12"
    )
    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    shown = page.split("$ python tests/intermediates.py gpt2\n")[1].split("```")[0].strip().splitlines()
    without_rounding = [re.sub(r"exact: \w+ +|maxdiff: \S+|; .*", "", line) for line in lines]
    for line in shown:
        assert line == "..." or re.sub(r"exact: \w+ +|maxdiff: \S+|; .*", "", line) in without_rounding, line
