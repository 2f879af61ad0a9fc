"""Read's data: operations, ties between backward and forward, rows, and symbols."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
import types
from pathlib import Path

import pytest

import minillm
from minillm.web.read.bookkeeping import Bookkeeping
from minillm.web.read.formulas import formula_words
from minillm.web.read.mentions import Mentions
from minillm.web.read.operation import (
    GROUPS,
    KERNELS,
    OPERATIONS,
    Operation,
    Pair,
    Place,
    Source,
    kernel_sources,
    sources,
)
from minillm.web.read.quotations import comments_of, leaves, lines_of, split
from minillm.web.read.rows import rows
from minillm.web.read.spellings import IN_CUDA, IN_TEXT, SPELLINGS
from minillm.web.read.symbols import COLUMNS, symbols
from minillm.web.read.ties import problems, readings, ties

PACKAGE = Path(minillm.__file__).parent
NAMES = list(OPERATIONS)
TIED = [name for name, operation in OPERATIONS.items() if any(pair.backward for pair in operation.pairs)]


def written(operation: Operation, place: Place) -> str:
    """The first line at a place, without spaces around it and the comment behind it."""
    source = sources(operation)[place.function]
    return source.lines[place.first - source.first].split("  #")[0].strip()


# ---------------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("name", NAMES)
def test_the_sources_of_an_operation_exist(name):
    operation = OPERATIONS[name]
    assert operation.name == name and operation.group in GROUPS and operation.title and len(operation.derivation) > 50
    found = sources(operation)
    assert list(found) == list(dict.fromkeys(n for p in operation.pairs for n in (p.forward, p.backward) if n))
    for source in found.values():
        text = source.path.read_text(encoding="utf-8").splitlines()
        assert text[source.first - 1 : source.last] == list(source.lines)
        assert source.tree.name == source.function.rpartition(".")[2] and source.tree.end_lineno == source.last
    assert list(kernel_sources(operation)) == list(operation.kernels)


def test_the_case_of_an_operation_is_one_of_the_checks():
    from minillm.checks.cases import CASES

    assert {operation.case for operation in OPERATIONS.values()} <= {"", *(case.name for case in CASES)}


def test_a_function_that_is_missing_is_named():
    operation = dataclasses.replace(OPERATIONS["linear"], pairs=(Pair("linear_forwards"),))
    with pytest.raises(LookupError, match=r"linear\.py: no function linear_forwards, which the operation linear has"):
        sources(operation)


def backward_functions():
    """Every function in layers/ and optim/ with a name that ends in backward, but those that only say that there is none."""
    for path in sorted([*PACKAGE.glob("layers/*.py"), *PACKAGE.glob("optim/*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            methods = node.body if isinstance(node, ast.ClassDef) else []
            for each in [node, *methods]:
                if isinstance(each, ast.FunctionDef) and re.search(r"(^|_)backward$", each.name):
                    yield path, f"{node.name}.{each.name}" if each is not node else each.name


def test_no_backward_function_is_without_a_page():
    shown = {(s.path, name) for operation in OPERATIONS.values() for name, s in sources(operation).items()}
    there = [(path, name) for path, name in backward_functions() if name != "Layer.save_for_backward"]
    assert len(there) > 30
    assert not [
        f"{path}: {name} has no page: add it to OPERATIONS" for path, name in there if (path, name) not in shown
    ]


def test_no_kernel_is_without_a_page():
    shown = {name for operation in OPERATIONS.values() for name in operation.kernels}
    there = {str(path.relative_to(KERNELS)) for path in (*KERNELS.glob("*.cu"), *KERNELS.glob("attention/*.cu"))}
    assert len(there) > 12 and there <= shown


def test_no_optimizer_is_without_a_page():
    from minillm.optim import OPTIMIZERS

    ours = {name for name, kind in OPTIMIZERS.items() if kind.__module__.startswith("minillm.")}
    assert ours <= {operation.name for operation in OPERATIONS.values() if operation.group == "optimizers"}


def test_no_comment_with_a_quotation_is_left_out():
    """Every `# forward:` in a file of an operation is in a function that is read."""
    files: dict[Path, set[int]] = {}
    for operation in OPERATIONS.values():
        for source in sources(operation).values():
            lines = {line for c in comments_of(source) for line in range(c.first, c.last + 1)}
            files.setdefault(source.path, set()).update(lines)
    for path, lines in files.items():
        text = path.read_text(encoding="utf-8").splitlines()
        there = {number for number, line in enumerate(text, 1) if line.lstrip().startswith("# forward:")}
        assert there <= lines, f"{path}: {sorted(there - lines)}"


# ----------------------------------------------------------------------------------------------------------------- ties


@pytest.mark.parametrize("name", NAMES)
def test_sources_keep_to_the_convention(name):
    assert problems(OPERATIONS[name]) == []


@pytest.mark.parametrize("name", TIED)
def test_every_backward_statement_is_tied_or_bookkeeping(name):
    operation = OPERATIONS[name]
    found = sources(operation)
    tied = {tie.backward for tie in ties(operation)}
    assert all(tie.forward for tie in ties(operation))
    for pair in operation.pairs:
        if pair.backward:
            statements = {Place(pair.backward, *lines_of(node)) for node in leaves(found[pair.backward].tree.body)}
            alone = {place for r in readings(operation) if r.function == pair.backward for place in r.alone}
            assert statements == (tied & statements) | alone and not tied & alone
            assert tied & statements, f"{pair.backward} has no tie"


def tied_lines(name, function):
    operation = OPERATIONS[name]
    return [
        (written(operation, tie.backward), [written(operation, place) for place in tie.forward])
        for tie in ties(operation)
        if tie.backward.function == function
    ]


def test_ties_of_attend():
    y, s = "y = matmul(dropped(p, factor), v, out=out)", "s = matmul(q * scale, transpose(k))"
    assert tied_lines("attention", "attend_backward") == [
        ("dp = matmul(dy, transpose(v))", [y]),
        ("dp *= factor", ["return p if factor is None else p * factor"]),
        ("ds = dp", ["p, _ = softmax_forward(s, out=s)"]),
        ("ds -= row_dot(dy, y)", ["p, _ = softmax_forward(s, out=s)"]),
        ("ds *= p", ["p, _ = softmax_forward(s, out=s)"]),
        ("ds *= scale", [s, "s += mask"]),
        ("dq = matmul(ds, k)", [s, "s += mask"]),
        ("dk = matmul(transpose(ds), q)", [s, "s += mask"]),
        ("dv = matmul(transpose(dropped(p, factor)), dy)", [y]),
    ]


def test_a_forward_function_that_computes_gradients_is_tied_to_itself():
    found = dict(tied_lines("cross_entropy", "cross_entropy_forward"))
    losses = "losses = xp.log(total) - (1 - label_smoothing) * at_target - label_smoothing * at_average"
    assert found["p *= (scale / total)[:, None]"] == ["p = xp.exp(z, out=z)", "total = row_sum(p)[:, 0]", losses]
    assert found["p[rows, t] -= (1 - label_smoothing) * scale"] == ["at_target = z[rows, t]", losses]
    assert "return loss, p.reshape(logits.shape)" not in " ".join(found)


def test_a_statement_that_occurs_twice_is_the_one_below_the_quotation_before_it():
    found = dict(tied_lines("gelu", "gelu_backward"))
    assert found["slope *= 3 * A * C * 2"][-3:] == ["xp.tanh(gate, out=gate)", "gate *= 0.5", "gate += 0.5"]
    operation = OPERATIONS["gelu"]
    lines = [
        [p.first for p in tie.forward] for tie in ties(operation) if written(operation, tie.backward) == "slope *= -0.5"
    ]
    erf = next(n for n, line in enumerate(sources(operation)["gelu_forward"].lines) if "gate = erf" in line)
    first = sources(operation)["gelu_forward"].first + erf
    assert lines == [[first, first + 1, first + 2]]


# -------------------------------------------------------------------------------------------------------- planted faults

LAYER = '''"""A layer to be spoilt: y = n w, n = x r."""


def scaled_forward(x, w, r):
    n = x * r
    y = n * w
    return y, (n, w, r)


def scaled_backward(dy, saved):
    n, w, r = saved
    # forward: y = n * w: the same for every row
    dw = dy * n
    dn = dy * w
    # forward: n = x * r
    dx = dn * r
    return dx, dw


def another_forward(x):
    z = x + x
    return z
'''
SPOILT = Operation(
    "spoilt", "A layer", "layers", "", (Pair("scaled_forward", "scaled_backward"), Pair("another_forward"))
)
FAULTS = {
    "a statement without a comment": (
        "    # forward: y = n * w: the same for every row\n",
        "",
        ["12: `dw = dy * n` needs the forward line that it differentiates", "13: `dn = dy * w` needs the forward line"],
    ),
    "a quotation of a line that does not exist": (
        "# forward: n = x * r\n",
        "# forward: n = x / r\n",
        ["15: `n = x / r` is in no statement of scaled_forward: quote it as it is there"],
    ),
    "a quotation of a line of another function": (
        "# forward: n = x * r\n",
        "# forward: z = x + x\n",
        ["15: `z = x + x` is in no statement of scaled_forward; it is in another_forward: quote it as it is there"],
    ),
    "a renamed forward variable": (
        "    n = x * r\n    y = n * w\n",
        "    normed = x * r\n    y = normed * w\n",
        [
            "12: `y = n * w` is in no statement of scaled_forward",
            "15: `n = x * r` is in no statement of scaled_forward",
        ],
    ),
    "a comment that quotes nothing": (
        "# forward: n = x * r\n",
        "# forward: : the scale\n",
        ["15: the comment quotes nothing"],
    ),
    "words that follow no colon": (
        "# forward: n = x * r\n",
        "# forward: n = x * r, whose slope is r\n",
        ["15: what is quoted is not Python: words follow a colon"],
    ),
    "a name alone": ("# forward: n = x * r\n", "# forward: r\n", ["15: `r` is in no statement of scaled_forward"]),
    "a comment with nothing below it": (
        "    return dx, dw\n",
        "    if False:\n        pass\n        # forward: n = x * r\n    return dx, dw\n",
        ["19: no statement follows this comment in its block"],
    ),
    "a gradient that is a view": (
        "    n, w, r = saved\n",
        "    n, w, r = saved\n    if r is None:\n        return dy.reshape(-1), w\n",
        ["13: `return (dy.reshape(-1), w)` needs the forward line"],
    ),
    "a mark that is misspelt": (
        "# forward: n = x * r\n",
        "#Forward: n = x * r\n",
        ["15: this comment ties nothing: write `# forward: ...`", "16: `dx = dn * r` differentiates none of the lines"],
    ),
    "a comment below another is taken out": (
        "    # forward: n = x * r\n",
        "",
        [
            "15: `dx = dn * r` differentiates none of the lines that are quoted above it, which have no `x`: quote its own"
        ],
    ),
    "a gradient before the first comment": (
        "    n, w, r = saved\n",
        "    n, w, r = saved\n    dn = w\n",
        ["12: `dn = w` needs the forward line"],
    ),
}


def spoilt(tmp_path, monkeypatch, right="", wrong="", operation=SPOILT, text=LAYER):
    """The operation in a module of its own, with `right`, which occurs once, replaced by `wrong`."""
    assert not right or text.count(right) == 1
    name = f"spoilt_{abs(hash((right, wrong, text)))}"
    module = types.ModuleType(name)
    module.__file__ = str(tmp_path / f"{name}.py")
    Path(module.__file__).write_text(text.replace(right, wrong) if right else text, encoding="utf-8")
    monkeypatch.setitem(sys.modules, name, module)
    return dataclasses.replace(operation, module=name, kernels=())


def test_the_layer_is_in_order_before_it_is_spoilt(tmp_path, monkeypatch):
    assert problems(spoilt(tmp_path, monkeypatch)) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_problem_with_its_place(fault, tmp_path, monkeypatch):
    right, wrong, expected = FAULTS[fault]
    operation = spoilt(tmp_path, monkeypatch, right, wrong)
    found = problems(operation)
    assert len(found) == len(expected), found
    for problem, part in zip(found, expected):
        assert f"{operation.module}.py:{part}" in problem and "minillm/web/read/ties.py" in problem


REAL_FAULTS = {
    "layer_norm": ("    variance = xp.square(normed) @ average", "    spread = xp.square(normed) @ average"),
    "attention": (
        "    y = matmul(dropped(p, factor), v, out=out)  #",
        "    out = matmul(dropped(p, factor), v, out=out)  #",
    ),
    "swiglu": ("    h = gate * s\n    h *= up\n    return", "    h = gate * s * up\n    return"),
    "linear": (
        "        # forward: y, saved = linear_forward(x, self.weight.operand(x)",
        "        # y, saved = linear_forward(x",
    ),
    "cross_entropy": ("    total = row_sum(p)[:, 0]  #", "    whole = row_sum(p)[:, 0]  #"),
    "gpt_page": (
        "    n = (x - x.mean(axis=-1, keepdims=True)) * rstd\n",
        "    n = (x - x.mean(-1, keepdims=True)) * rstd\n",
    ),
    "lora": ("    h *= scale\n    return", "    h = h * scale\n    return"),
}


@pytest.mark.parametrize("name", REAL_FAULTS)
def test_a_changed_line_of_a_real_layer_is_noticed(name, tmp_path, monkeypatch):
    operation = OPERATIONS[name]
    text = Path(operation.home.__file__).read_text(encoding="utf-8")
    assert problems(spoilt(tmp_path, monkeypatch, operation=operation, text=text)) == []
    assert problems(spoilt(tmp_path, monkeypatch, *REAL_FAULTS[name], operation=operation, text=text))


def written_once(operation, function):
    """The places of the statements that a function has once."""
    statements = [(ast.dump(node), node) for node in leaves(sources(operation)[function].tree.body)]
    texts = [text for text, _ in statements]
    return [Place(function, *lines_of(node)) for text, node in statements if texts.count(text) == 1]


@pytest.mark.parametrize("name", TIED)
def test_a_forward_statement_that_is_taken_out_is_missed(name, tmp_path, monkeypatch):
    """One after the other, each forward statement that is quoted, but those that are written twice."""
    operation = OPERATIONS[name]
    text = Path(operation.home.__file__).read_text(encoding="utf-8").splitlines()
    quoted = {place for tie in ties(operation) for place in tie.forward}
    once = {place for function in sources(operation) for place in written_once(operation, function)}
    for place in sorted(quoted & once, key=repr):
        line = text[place.first - 1]
        indent = line[: len(line) - len(line.lstrip())]
        changed = [*text[: place.first - 1], f"{indent}pass", *text[place.last :]]
        copy = spoilt(tmp_path, monkeypatch, operation=operation, text="\n".join(changed) + "\n")
        assert problems(copy), f"{place}: nothing is missed without {line.strip()}"


@pytest.mark.parametrize("name", TIED)
def test_a_function_without_its_comments_has_a_problem_for_each_gradient(name, tmp_path, monkeypatch):
    operation = OPERATIONS[name]
    lines = Path(operation.home.__file__).read_text(encoding="utf-8").splitlines()
    bare = "\n".join("" if line.lstrip().startswith("#") else line for line in lines) + "\n"
    missing = problems(spoilt(tmp_path, monkeypatch, operation=operation, text=bare))
    needing = {place.first for place in (tie.backward for tie in ties(operation)) if "backward" in place.function}
    places = {int(problem.split(":")[1]) for problem in missing}
    assert all(lines[place - 1].lstrip().startswith("return ") for place in places - needing)
    assert len(places & needing) > len(needing) / 2
    for pair in operation.pairs:
        if pair.backward:
            assert any(
                source.first <= place <= source.last
                for place in places
                for source in [sources(operation)[pair.backward]]
            )


def without_comments(operation):
    """The operation's source without one of the comments of its backward functions, for each; and the comment's line."""
    lines = Path(operation.home.__file__).read_text(encoding="utf-8").splitlines()
    backward = {pair.backward for pair in operation.pairs if pair.backward}
    for comment in sorted({c for name in backward for c in comments_of(sources(operation)[name])}, key=str):
        kept = ["" if comment.first <= number <= comment.last else line for number, line in enumerate(lines, start=1)]
        yield lines[comment.first - 1].strip(), "\n".join(kept) + "\n"


UNNOTICED = {  # comments whose statements have all names of the comment above
    "rotary_attention": ["# forward: k, saved_k = rotate(k, cos, sin, self.positions.interleaved)"],
    "gpt2": ["# forward: self.wte.forward(ids, self.activations)"],
}


@pytest.mark.parametrize("name", ["linear", "layer_norm", "rotary_attention", "gpt2"])
def test_a_comment_that_is_taken_out_is_missed(name, tmp_path, monkeypatch):
    """One after the other, below another comment of the same block, too."""
    operation = OPERATIONS[name]
    unnoticed = [
        comment
        for comment, text in without_comments(operation)
        if not problems(spoilt(tmp_path, monkeypatch, operation=operation, text=text))
    ]
    assert unnoticed == UNNOTICED.get(name, [])


FORWARD = """
def forward(x, w, b):
    rows, n = upcast(x).reshape(-1, 4), len(x)
    y = rows @ w
    y += b
    h = norm(y, w)
    z = self.mlp.forward(h)
    launch("softmax_forward", z)
    return self.head.forward(z), self.forward(z)
"""


@pytest.mark.parametrize(
    ("quotation", "statement", "missing"),
    [
        ("y = rows @ w", "dx = dy @ w.T", None),  # rows has the numbers of x
        ("y = rows @ w", "dw = rows.T @ dy", None),
        ("y = rows @ w", "db = ones @ dy", "b"),
        ("y += b", "dw = rows.T @ dy", "w"),
        ("y += b", "db, dw = ones @ dy, rows.T @ dy", "w"),
        ("y += b", "dw *= scale", None),
        ("y += b", "dw = dw + more", None),
        ("y += b", "dw = saved.dw", None),
        ("y += b", "dx = dy", "x"),
        ("y += b", "g = rows.T @ dy", None),
        ("y += b", "dx, dw = norm_backward(dy)", "norm(...)"),
        ("h = norm(y, w)", "dx, dw = norm_backward(dy)", None),
        ("h = norm(y, w)", "dh = self.mlp.backward(dz)", "self.mlp.forward(...)"),
        ("z = self.mlp.forward(h)", "self.mlp.backward(dz)", None),
        ("z = self.mlp.forward(h)", "self.head.backward(dz)", "self.head.forward(...)"),
        ("z = self.mlp.forward(h)", "unknown.backward(dz)", None),
        ("z = self.mlp.forward(h)", "self.backward(dz)", None),
        ("z = self.mlp.forward(h)", 'launch("softmax_backward", dz)', "softmax(...)"),
        ('launch("softmax_forward", z)', 'launch("softmax_backward", dz)', None),
        ("z = self.mlp.forward(h)", "if norm_backward(dz):\n    pass", "norm(...)"),
    ],
)
def test_what_a_statement_can_be_the_gradient_of(tmp_path, quotation, statement, missing):
    path = tmp_path / "layer.py"
    path.write_text(FORWARD, encoding="utf-8")
    lines = FORWARD.splitlines()
    source = Source("forward", path, 2, tuple(lines[1:]))
    found = next(node for node in leaves(source.tree.body) if ast.unparse(node) == ast.unparse(ast.parse(quotation)))
    names = {"x", "w", "b", "rows", "n", "y", "h", "z"}
    assert Mentions([source], names).missing(ast.parse(statement).body[0], [found]) == missing


def test_a_formula_that_a_kernel_does_not_have_is_a_problem(tmp_path, monkeypatch):
    from minillm.web.read import operation as module

    text = (KERNELS / "swiglu.cu").read_text(encoding="utf-8")
    assert text.count("// forward: h = g s(g) u\n") == 1
    (tmp_path / "swiglu.cu").write_text(text.replace("// forward: h = g s(g) u\n", "// forward: h = g s(g)^2 u\n"))
    monkeypatch.setattr(module, "KERNELS", tmp_path)
    (found,) = problems(OPERATIONS["swiglu"])
    assert re.search(r"swiglu\.cu:\d+: `h = g s\(g\)\^2 u` is in no other comment of swiglu\.cu", found)


# ------------------------------------------------------------------------------------------------- the rules one by one


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("y = x: in words", ("y = x", "in words")),
        ("y = x[:, 1:] @ {1: 2}[1]: words: more", ("y = x[:, 1:] @ {1: 2}[1]", "words: more")),
        ('f(x, "a: b"): words', ('f(x, "a: b")', "words")),
        ("y = x; z = y", ("y = x; z = y", "")),
    ],
)
def test_where_a_quotation_ends(text, parts):
    assert split(text) == parts


@pytest.mark.parametrize(
    ("statement", "needs"),
    [
        ("x, w = saved", False),
        ("N, C = x.shape", False),
        ("dy = upcast(dy)", False),
        ("dy_rows = upcast(dy).reshape(-1, dy.shape[-1])", False),
        ("like, dy = dy, upcast(dy)", False),
        ("xp = array_module(dy)", False),
        ("average = xp.full(w.shape[0], 1 / w.shape[0])", False),
        ("dx = empty(x.shape, x)", False),
        ("del p", False),
        ("return p", False),
        ("return downcast(p, dy).reshape(dy.shape)", False),
        ("dx = dy", True),
        ("dx = dy.reshape(-1)", True),
        ("dx = xp.zeros(x.shape)", True),
        ("dy = dy.T", True),
        ("dy = w", True),
        ("p = dy * 2", True),
        ("p = -w", True),
        ("p = w @ x", True),
        ("p += w", True),
        ("p = scale(w)", True),
        ("p = w.dot(x.shape[0])", True),
        ("w.add_grad(p)", True),
        ("xp.exp(p, out=p)", True),
        ("return dy", True),
        ("return p, dy.reshape(-1)", True),
        ("return p + 1", True),
        ("for dx in p:\n    pass", True),
        ("for part in p:\n    pass", False),
        ("for part in [dy * 2]:\n    pass", True),
        ("if (part := w * 2) is None:\n    pass", True),
        ("with room(dy) as part:\n    pass", True),
        ("if w is not None:\n    pass", False),
        ("p = w > 0", True),
        ("p = w if w.ndim else x", False),
        ("p = w if (z := 2 * x) else x", True),
        ("p = xp.zeros(3, out=w)", True),
        ("p = lambda: w * 2", True),
        ("p = [w * 2 for w in x]", True),
        ("p: int = w", True),
    ],
)
def test_what_needs_a_forward_line(statement, needs):
    rule = Bookkeeping(forward_names={"x", "w", "y"}, incoming={"dy"})
    assert rule.needs_partner(ast.parse(statement).body[0], covered=False) is needs


def test_a_gradient_under_another_name_is_still_the_one_that_came_in():
    rule = Bookkeeping(forward_names={"x"}, incoming={"dy"})
    first, second = ast.parse("g = dy.reshape(-1)\nreturn g").body
    assert not rule.needs_partner(first, covered=False) and rule.needs_partner(second, covered=False)


# ----------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("name", NAMES)
def test_every_statement_is_in_one_row_and_forward_is_in_order(name):
    operation = OPERATIONS[name]
    found = sources(operation)
    for pair, here in rows(operation).items():
        functions = [found[function] for function in (pair.forward, pair.backward) if function]
        there = [Place(s.function, *lines_of(node)) for s in functions for node in leaves(s.tree.body)]
        shown = [place for row in here for place in (*row.forward, *row.backward)]
        assert sorted(shown, key=repr) == sorted(there, key=repr)
        lines = [place.first for row in here for place in row.forward]
        assert lines == sorted(lines)


@pytest.mark.parametrize("name", TIED)
def test_a_tied_statement_is_beside_its_forward_lines(name):
    operation = OPERATIONS[name]
    beside = {place: row.forward for here in rows(operation).values() for row in here for place in row.backward}
    for tie in ties(operation):
        own = {place for place in tie.forward if place in {p for forward in beside.values() for p in forward}}
        assert own <= set(beside[tie.backward])


def test_rows_of_layer_norm():
    operation = OPERATIONS["layer_norm"]
    here = rows(operation)[operation.pairs[0]]
    beside = [
        ([written(operation, p) for p in row.forward], [written(operation, p) for p in row.backward])
        for row in here
        if row.backward
    ]
    assert [len(backward) for _, backward in beside] == [1, 6, 1, 3, 1, 6]
    (returned, normed, _, y, shifted, unpacked) = beside
    assert returned == ([], ["return downcast(dx, dy).reshape(dy.shape), dweight, dbias"])
    assert normed[0][0] == "normed = rows - (rows @ average)[:, None]" and normed[0][-1] == "normed *= rstd[:, None]"
    assert normed[1][0].startswith("along_normed = ") and normed[1][-2] == "dx *= rstd[:, None]"
    assert y == (
        ["y = normed * weight"],
        ["product = dy_rows * normed", "dweight = ones @ product", "dnormed = dy_rows * weight"],
    )
    assert shifted == (["y += bias"], ["dbias = ones @ dy_rows if has_bias else None"])
    assert unpacked[1][0] == "normed, rstd, weight, has_bias = saved"


# -------------------------------------------------------------------------------------------------------------- symbols

EXPECTED = {
    "layer_norm": "C average bias dbias dnormed dsum dweight dx dy eps mean normed rstd variance weight x y",
    "attention": (
        "B D H T b block c_attn c_proj causal dk dp dq ds dv dy factor first k keys mask n_kv_head p q rows s scale starts v "
        "window y"
    ),
    "cross_entropy": "V before count dlogits ignore_index label_smoothing logits loss p targets total",
    "adamw": "b1 b2 copies decay decoupled eps g gradient_scale lr m v w",
}
SPELLED = {  # name, column -> spellings
    ("layer_norm", "dweight"): {"derivation": {"dw_i"}, "kernel": {"dweight"}},
    ("layer_norm", "normed"): {"derivation": {"n_i", "n_j", "normed"}, "backward": {"normed"}},
    ("layer_norm", "rstd"): {"derivation": {"rstd"}, "kernel": {"rstd"}},
    ("attention", "dv"): {"derivation": {"dv", "dv_jd"}, "kernel": {"dv", "dv_sum"}},
    ("attention", "p"): {"derivation": {"p", "p_ij", "p_il"}, "kernel": {"p", "p_tile", "probability"}},
    ("cross_entropy", "dlogits"): {"derivation": {"dL/dz_j"}, "kernel": {"dz"}},
    ("softmax", "m"): {"derivation": {"m"}, "forward": {"row_max"}},
    ("adamw", "m"): {"derivation": {"m"}, "kernel": {"m", "first_moment", "first_moments"}},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_symbols_of_an_operation(name):
    assert sorted(symbols(OPERATIONS[name])) == sorted(EXPECTED[name].split())


@pytest.mark.parametrize(("name", "symbol"), SPELLED)
def test_the_spellings_of_a_symbol(name, symbol):
    here = symbols(OPERATIONS[name])[symbol]
    for column, spellings in SPELLED[name, symbol].items():
        assert {occurrence.spelling for occurrence in here if occurrence.where == column} == spellings


@pytest.mark.parametrize("name", NAMES)
def test_an_occurrence_is_where_it_says(name):
    found = symbols(OPERATIONS[name])
    assert found or name == "cached_attention"
    for symbol, here in found.items():
        assert len({occurrence.where for occurrence in here} & set(COLUMNS)) > 1, symbol
        assert len(set(here)) == len(here), symbol
        for each in here:
            line = each.path.read_text(encoding="utf-8").splitlines()[each.line - 1]
            assert line[each.column : each.column + len(each.spelling)] == each.spelling


def test_words_that_merely_equal_a_symbol_do_not_light_up(tmp_path):
    path = tmp_path / "derivation.py"
    path.write_text(
        '"""A p and an n in a sentence, and `p @ v` in code.\n\n'
        "    dw_i = sum over rows dy_i n_i        where a row of p has no say\n"
        "    mean = 1/C sum_i x_i: a mean of all\n"
        '    dL/dn_i = dn_j/dx_i drstd/dx_i\n"""\n',
        encoding="utf-8",
    )
    words = [(word.line, word.name, word.spelling) for word in formula_words(path) if word.sure]
    assert words == [
        (1, "p", "p"),
        (1, "v", "v"),
        (3, "dw", "dw_i"),
        (3, "dy", "dy_i"),
        (3, "n", "n_i"),
        (4, "mean", "mean"),
        (4, "C", "C"),
        (4, "x", "x_i"),
        (5, "dn", "dL/dn_i"),
        (5, "n", "n_j"),
        (5, "x", "x_i"),
        (5, "rstd", "rstd"),
        (5, "x", "x_i"),
    ]


def test_comments_strings_and_numbers_of_cuda_have_no_symbols(tmp_path, monkeypatch):
    from minillm.web.read import operation as module

    (tmp_path / "swiglu.cu").write_text(
        '#include "gate.cuh"\n// gate\n/* gate\n gate */ float x = gate[0] + 1.0f; // gate\nprintf("gate \\" gate", up);\n'
    )
    monkeypatch.setattr(module, "KERNELS", tmp_path)
    found = symbols(OPERATIONS["swiglu"])
    at = {name: [(o.line, o.column) for o in here if o.where == "kernel"] for name, here in found.items()}
    assert at["gate"] == [(4, 19)] and at["up"] == [(5, 23)]


def test_names_in_python_strings_and_keywords_have_no_symbols(tmp_path, monkeypatch):
    text = LAYER.replace("    y = n * w\n", '    y = f(n * w, f"{n} w", r=3, n="r")  # n w\n').replace(
        "# forward: y = n * w: ", "# "
    )
    found = symbols(spoilt(tmp_path, monkeypatch, text=text))
    line = text.splitlines().index('    y = f(n * w, f"{n} w", r=3, n="r")  # n w') + 1
    there = [(name, o.column) for name, here in found.items() for o in here if o.line == line]
    assert sorted(there) == [("n", 10), ("w", 14)]


@pytest.mark.parametrize("name", sorted({*SPELLINGS, *IN_TEXT, *IN_CUDA}))
def test_no_spelling_is_out_of_date(name):
    operation = OPERATIONS[name]
    text = operation.derivation + "\n".join(line for s in sources(operation).values() for line in s.lines)
    cuda = "\n".join(line for s in kernel_sources(operation).values() for line in s.lines)
    for table, where in ((SPELLINGS, text + cuda), (IN_TEXT, operation.derivation), (IN_CUDA, cuda)):
        for spellings in table.get(name, {}).values():
            for spelling in spellings:
                assert re.search(rf"(\b|_|d){re.escape(spelling)}(\b|_)", where), f"{name}: {spelling} occurs nowhere"
