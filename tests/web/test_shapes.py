"""The shapes in docstrings and comments: none is wrong, few cannot be checked, and wrong ones are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minillm.web.read.operation import OPERATIONS, shown
from minillm.web.read.shape_comments import Comments
from minillm.web.read.shape_text import Fit, Letters, half_understood, shapes_in
from minillm.web.read.shapes import files_of, report, shape_problems, unchecked
from minillm.web.read.tracing import Tracer

# What no pass can be compared with: the end of the file's name, the claim -> the reason.
KNOWN = {
    ("language_model.py", "(B, T)"): "the docstring of a property: of the forward of what the property returns",
    ("language_model.py", "x (B, T, C)"): "the same",
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_comment_is_wrong(name):
    assert shape_problems(OPERATIONS[name]) == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_comment_is_compared(name):
    left = [line for line in unchecked(OPERATIONS[name]) if not any(is_known(line, *known) for known in KNOWN)]
    assert left == []


def test_nothing_is_excused_that_could_be_compared():
    lines = [line for operation in OPERATIONS.values() for line in unchecked(operation)]
    assert [known for known in KNOWN if not any(is_known(line, *known) for line in lines)] == []


def is_known(line, file, claim):
    place, _, text = line.partition(": ")
    return place.rpartition(":")[0].endswith(file) and text.startswith(f"{claim}: ")


# -------------------------------------------------------------------------------------------------- planted faults

# name of an operation, a text that is once in its file, the text with a wrong shape, where the shape is in it.
PLANTED = {
    "an argument in a docstring": (
        "linear",
        '"""dy (..., O)  ->  dx (..., I), dweight (as weight)',
        '"""dy (..., I)  ->  dx (..., I), dweight (as weight)',
    ),
    "a result in a docstring": (
        "layer_norm",
        "dx (..., C), dweight (C,), dbias (C,) or None",
        "dx (..., C), dweight (N,), dbias (C,) or None",
    ),
    "the shape of what a line assigns": ("layer_norm", "@ average  # (N,)", "@ average  # (C,)"),
    "the left operand": ("attention", "transpose(v))  # (B, H, t, D) @", "transpose(v))  # (B, H, t, T) @"),
    "the right operand": (
        "linear",
        "add=dx is not None).reshape(x.shape)  # (N, O) @ (O, I)",
        "add=dx is not None).reshape(x.shape)  # (N, O) @ (O, N)",
    ),
    "two letters in the wrong order": (
        "attention",
        "dk = matmul(transpose(ds), q)  # (B, H, T, t)",
        "dk = matmul(transpose(ds), q)  # (B, H, t, T)",
    ),
    "a missing axis": (
        "rotary",
        "a, b = x[..., first], x[..., second]  # (B, H, T, D/2)",
        "a, b = x[..., first], x[..., second]  # (B, T, D/2)",
    ),
    "a wrong multiple": ("gpt_page", "(B, T, 3C) -> (B, T, C)", "(B, T, 4C) -> (B, T, C)"),
    "a field": ("gelu", "gate: Any  # (..., F)", "gate: Any  # (F,)"),
    "a field that is named likewise": (
        "attention",
        "q: Any  # (B, H, T, D), y likewise",
        "q: Any  # (B, T, H, D), y likewise",
    ),
    "a product of the page": (
        "gpt_page",
        "y = p @ v  # (B, H, T, T) @ (B, H, T, D)",
        "y = p @ v  # (B, H, T, T) @ (B, H, D, T)",
    ),
    "another letter with the same number": (
        "softmax",
        '"""dp (..., V)  ->  dx (..., V)"""',
        '"""dp (..., V)  ->  dx (..., C)"""',
    ),
    "rows and columns": (
        "cross_entropy",
        "at_target = z[rows, t]  # (N,)",
        "at_target = z[rows, t]  # (V,)",
    ),
    "a block that is called the whole": (
        "attention",
        "which see n keys: (B, H, t, n)",
        "which see all keys: (B, H, t, T)",
    ),
    "the weight of a layer": ("mlp", "c_fc: C -> F", "c_fc: F -> C"),
    "an operand before an arrow": (
        "attention",
        "# (B, T, C) -> (B, H, T, D)",
        "# (B, C, T) -> (B, H, T, D)",
    ),
    "a letter that the other methods of the class do not have": (
        "linear",
        '"""dy (..., O)  ->  dx (..., I); adds to the gradients of weight and bias.',
        '"""dy (..., O)  ->  dx (..., C); adds to the gradients of weight and bias.',
    ),
    "two letters exchanged in the whole of a method": (
        "linear",
        '"""dy (..., O)  ->  dx (..., I); adds to the gradients of weight and bias.',
        '"""dy (..., I)  ->  dx (..., O); adds to the gradients of weight and bias.',
    ),
    "a kernel's launcher": (
        "attention_flash",
        '"""dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)',
        '"""dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H, T, D)',
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_wrong_shape_is_found_with_its_line(kind):
    name, right, wrong = PLANTED[kind]
    operation = OPERATIONS[name]
    path = files_of(operation)[0]
    source = Path(path).read_text(encoding="utf-8")
    assert source.count(right) == 1
    faulty = source.replace(right, wrong)
    line = next(n for n, pair in enumerate(zip(source.splitlines(), faulty.splitlines()), 1) if pair[0] != pair[1])
    problems = shape_problems(operation, faulty)
    assert any(problem.startswith(f"{shown(Path(path))}:{line}: ") for problem in problems), problems


# -------------------------------------------------------------------------------------------------------- the parts


def test_a_problem_says_what_was_claimed_and_what_was_seen(tmp_path):
    problems = problems_of(
        tmp_path,
        '''
        def halves(x):
            """x (N, C)  ->  a (N, C/2), b (N, 2C)"""
            return x[:, :3], x[:, 3:]
        ''',
        lambda module: module["halves"](np.zeros((5, 6))),
    )
    (problem,) = problems
    assert problem.endswith(
        ":2: halves: the comment says b (N, 2C), the pass has (5, 3) where C 6, N 5: correct the comment"
    )


def problems_of(folder, source, run):
    """The problems of a source, given a run of it."""
    import textwrap

    path = folder / "source.py"
    path.write_text(textwrap.dedent(source).lstrip())
    module = {}
    exec(compile(path.read_text(), str(path), "exec"), module)
    with Tracer([str(path)], numbers=False) as tracer:
        run(module)
    return report(str(path), tracer.calls).problems


def test_letters_are_bound_within_one_call(tmp_path):
    """Two calls may have two sizes; in one call a letter has one."""
    source = '''
    def same(x, y):
        """x (N, C), y (C, N)  ->  z (N, N)"""
        return x @ y  # (N, C) @ (C, N)
    '''
    right = lambda module: [module["same"](np.zeros((n, 4)), np.zeros((4, n))) for n in (2, 3)]  # noqa: E731
    assert problems_of(tmp_path, source, right) == []
    assert problems_of(tmp_path, source.replace("y (C, N)", "y (N, C)"), right) != []


def test_a_letter_beside_another_of_the_same_number_is_a_problem(tmp_path):
    source = '''
    def same(x):
        """x (N, C)  ->  y (C, N)"""
        return x.T
    '''
    (problem,) = problems_of(tmp_path, source, lambda module: module["same"](np.zeros((3, 3))))
    assert "are the same number in every pass" in problem
    assert problems_of(tmp_path, source, lambda module: module["same"](np.zeros((3, 2)))) == []


def test_both_alternatives_are_allowed_and_no_third(tmp_path):
    source = '''
    def rows(x, turned):
        """x (N, C) or, if turned, (C, N)  ->  y (N, C)"""
        return x.T if turned else x
    '''
    for x, turned in ((np.zeros((3, 2)), False), (np.zeros((2, 3)), True)):
        assert problems_of(tmp_path, source, lambda module, x=x, turned=turned: module["rows"](x, turned)) == []
    assert problems_of(tmp_path, source.replace("y (N, C)", "y (N, 2C)"), lambda m: m["rows"](np.zeros((3, 2)), False))


def test_a_product_that_a_function_below_computes_is_compared(tmp_path):
    source = """
    def outer(x, w):
        y = inner(x.T, w)  # (C, N) @ (N, O)
        return y

    def inner(x, w):
        return x @ w if w is not None else x
    """
    run = lambda module: module["outer"](np.zeros((5, 2)), np.zeros((5, 3)))  # noqa: E731
    assert problems_of(tmp_path, source, run) == []
    assert problems_of(tmp_path, source.replace("(C, N) @ (N, O)", "(N, C) @ (N, O)"), run) != []


def test_operands_are_computed_from_copies(tmp_path):
    """An operand that writes over its argument does so once, not once more for the comparison."""
    source = """
    def doubled(x):
        x *= 2
        return x

    def product(x, w):
        y = doubled(x) @ w  # (N, C) @ (C, O)
        return y
    """
    found = []
    run = lambda module: found.append(module["product"](np.ones((2, 3)), np.ones((3, 4))))  # noqa: E731
    assert problems_of(tmp_path, source, run) == []
    assert (found[0] == 6).all()


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("x (B, T, I), weight (I, O)", ["(B, T, I)", "(I, O)"]),
        ("(C,) and (...) and (0-d, float64)", ["(C,)", "(...)", "(0-d, float64)"]),
        ("(H D, C/2, T-1, 3C, H / H_kv t)", ["(H D, C/2, T-1, 3C, H / H_kv t)"]),
        ("forward(x, w) of (seed, step), (GPT-2), (x_a, x_b), (-sin, sin), (i, i + D/2), (1, 2)", []),
    ],
)
def test_what_is_a_shape(text, shapes):
    assert list(map(str, shapes_in(text, names=("x", "w", "sin")))) == shapes


def test_a_group_that_begins_like_a_shape_is_listed():
    assert half_understood("an array (N, V or more), of (GPT-2, say)") == ["(N, V or more)"]


@pytest.mark.parametrize(
    ("claims", "fits"),
    [
        ([("(B, T, 3C)", (2, 5, 36)), ("(C,)", (12,))], True),
        ([("(B, T, 3C)", (2, 5, 36)), ("(C,)", (36,))], False),
        ([("(H D, C)", (24, 7)), ("(H, D)", (6, 4))], True),
        ([("(H D, C)", (24, 7)), ("(H, D)", (6, 5))], False),
        ([("(..., I)", (2, 5, 7)), ("(..., O)", (2, 5, 3))], True),
        ([("(..., I)", (2, 5, 7)), ("(..., O)", (5, 2, 3))], False),
        ([("(T, D/2)", (5, 4)), ("(D,)", (8,)), ("(T-1,)", (4,))], True),
        ([("(B, T)", (2, 5, 7))], False),
    ],
)
def test_letters_have_one_number(claims, fits):
    assert Letters().fit([Fit(shapes_in(text)[0], observed) for text, observed in claims]) == fits


def test_claims_of_a_docstring():
    source = '''
def f(x, delta, weight, bias=None):
    """x and delta (..., C), weight (C,), bias (C,) or None  ->  (sum, y), both (..., C), saved"""
'''
    claims = Comments(source).claims
    assert [(c.kind, c.name, c.position, str(c.shapes[0])) for c in claims] == [
        ("argument", "x", -1, "(..., C)"),
        ("argument", "delta", -1, "(..., C)"),
        ("argument", "weight", -1, "(C,)"),
        ("argument", "bias", -1, "(C,)"),
        ("result", "sum", 0, "(..., C)"),
        ("result", "y", 1, "(..., C)"),
    ]
