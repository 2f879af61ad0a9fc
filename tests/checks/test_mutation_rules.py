"""What the rules make of a line: each of them by an example, and what they leave alone."""

import numpy as np
import pytest
from mutation_testing import module_of

from minillm.checks.mutation import backward_functions, functions_of, mutants_of, observe


def changes(folder, line, arguments="x, y"):
    """(rule, after) of every mutant of a function with this line."""
    module = module_of(folder, f"def f({arguments}):\n    {line}\n")
    return {(mutant.rule, mutant.after) for mutant in mutants_of(module, ["f"])}


EXAMPLES = {
    "a term": ("return x - y", "term dropped", "return x"),
    "the other term": ("return x - y", "term dropped", "return -y"),
    "a factor": ("return x * y", "factor dropped", "return y"),
    "a divisor": ("return x / y", "factor dropped", "return x"),
    "a numerator": ("return x / y", "factor dropped", "return 1 / y"),
    "an exponent": ("return x ** 2", "factor dropped", "return x"),
    "a sum": ("return x.sum(axis=0)", "sum dropped", "return x"),
    "a sum by NumPy": ("return np.sum(x, axis=0)", "sum dropped", "return x"),
    "a mean for it": ("return x.sum(axis=0)", "mean for sum", "return x.mean(axis=0)"),
    "a smallest for a largest": ("return x.max()", "min for max", "return x.min()"),
    "a transpose": ("return x.T @ y", "transpose dropped", "return x @ y"),
    "exchanged axes": ("return np.matmul(x, y.swapaxes(-1, -2))", "transpose dropped", "return np.matmul(x, y)"),
    "a transpose too many": (
        "return np.matmul(x, y)",
        "transpose added",
        "return np.matmul(x, y.swapaxes(-1, -2))",
    ),
    "keepdims": ("return x.sum(axis=1, keepdims=True)", "keepdims dropped", "return x.sum(axis=1)"),
    "a new axis": ("return x[..., None] * y", "new axis dropped", "return x * y"),
    "a sign": ("return -x", "sign", "return x"),
    "a sign of a result": ("return np.exp(x)", "sign", "return -np.exp(x)"),
    "a sign of an assignment": ("z = x * y", "sign", "z = -(x * y)"),
    "an axis": ("return x.sum(axis=0)", "axis", "return x.sum(axis=-1)"),
    "one of several axes": ("return x.sum(axis=(0, 1))", "axis", "return x.sum(axis=(0,))"),
    "a whole constant": ("return x[1]", "constant", "return x[2]"),
    "a constant": ("return 0.5 * x", "constant", "return 1.0 * x"),
    "a truth": ("return g(x, True)", "constant", "return g(x, False)"),
    "an operator": ("return x + y", "operator", "return x - y"),
    "an operator in place": ("x += y", "operator", "x -= y"),
    "= for +=": ("x[0] += y", "= for +=", "x[0] = y"),
    "+= for =": ("x[0] = y", "+= for =", "x[0] += y"),
    "a statement": ("x *= y", "statement dropped", "pass"),
    "a call for its effect": ("x.add_grad(y)", "statement dropped", "pass"),
    "a border": ("return x < y", "comparison", "return x <= y"),
    "a comparison": ("return x is None", "comparison", "return x is not None"),
    "both conditions": ("return x and y", "condition", "return x or y"),
    "one condition": ("return x and y", "condition dropped", "return y"),
    "a branch": ("return x if y else 0", "branch", "return x"),
    "a negation": ("return not x", "condition negated", "return x"),
    "a mask": ("return np.where(x, y, 0)", "mask dropped", "return y"),
    "an inverted mask": ("return ~x * y", "mask negated", "return x * y"),
    "a mask of two": ("return x & y", "mask dropped", "return x"),
    "a slice's end": ("return x[:y]", "slice", "return x[:]"),
    "a slice's start": ("return x[y:]", "slice", "return x[y + 1:]"),
    "an index": ("return x[y]", "index dropped", "return x"),
    "exchanged results": ("return (x, y)", "exchanged", "return (y, x)"),
    "exchanged arguments": ("return g(x, y)", "arguments exchanged", "return g(y, x)"),
    "exchanged operands": ("return x @ y", "operands exchanged", "return y @ x"),
    "a function": ("return np.exp(x)", "function dropped", "return x"),
    "another function": ("return np.maximum(x, 0)", "another function", "return np.minimum(x, 0)"),
    "a ufunc with out": ("np.multiply(x, y, out=x)", "another function", "np.divide(x, y, out=x)"),
    "an operand with out": ("np.multiply(x, y, out=x)", "operand dropped", "np.positive(y, out=x)"),
    "out itself": ("np.multiply(x, y, out=x)", "argument dropped", "np.multiply(x, y)"),
    "subscripts": ("return np.einsum('ij,jk->ik', x, y)", "subscripts", "return np.einsum('ij,kj->ik', x, y)"),
    "a loop": ("for row in x: y += row", "statement dropped", "pass"),
    "the order of a loop": ("for row in reversed(x): y += row", "function dropped", "x"),
    "a condition of a list": ("return [i for i in x if i]", "condition dropped", "return [i for i in x]"),
}


@pytest.mark.parametrize("line, rule, after", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_rules(line, rule, after, tmp_path):
    made = changes(tmp_path, line)
    assert any(found == rule and after in text for found, text in made), sorted(made)


@pytest.mark.parametrize(
    "line",
    [
        '"""Says what it does, 1 + 2."""',
        "raise ValueError(f'{x + y} is wrong')",
        "assert x + y",
        "del x, y",
        "return np.empty(3, dtype=x.dtype)",
        "return x.astype(y.dtype, copy=False)",
        "return x.reshape(-1)",
    ],
)
def test_what_decides_no_number_is_left_alone(line, tmp_path):
    assert not {(rule, after) for rule, after in changes(tmp_path, line) if rule != "sign"}


def test_a_block_that_ends_in_an_error_is_left_alone(tmp_path):
    module = module_of(
        tmp_path, "def f(x):\n    if x < 0:\n        why = 'below ' + str(1)\n        raise ValueError(why)\n"
    )
    assert {mutant.line for mutant in mutants_of(module, ["f"])} == {5}


def test_out_is_not_dropped_where_the_result_is_used(tmp_path):
    """It is the same numbers, in memory of its own."""
    assert "argument dropped" not in {rule for rule, _ in changes(tmp_path, "z = np.exp(x, out=x)")}


SHAPES = """
def g(dy, saved):
    x, w = saved
    n = dy * w
    scale, count = 0.5, 3
    z = dy
    return n * x * scale
"""


def test_an_operand_is_mistaken_for_one_of_its_shape_alone(tmp_path):
    module = module_of(tmp_path, SHAPES)
    dy, x, w = np.ones((2, 3)), np.ones((2, 3)), np.ones(3)
    observed = observe(module, ["g"], lambda copy: copy.g(dy, (x, w)))
    found = {mutant.after for mutant in mutants_of(module, ["g"], observed) if mutant.rule == "another operand"}
    assert "return x * x * scale" in found and "return n * n * scale" in found
    assert "return z * x * scale" in found and "n = x * w" in found
    assert not any("return w" in text or "scale * scale" in text for text in found)  # another shape
    assert "return dy * x * scale" not in found  # dy is z itself


FUNCTIONS = """
class Layer:
    def backward(self, dy):
        def inner(x):
            return 2 * x
        return inner(dy)

    @staticmethod
    def twice(x):
        return x + x


def f_backward(dy, saved):
    return _helper(dy) + shared(dy)


def f_forward(x):
    return shared(x), x


def _helper(dy):
    return 3 * dy


def shared(x):
    return x + 1


def h_forward(x):
    y = x * x
    # forward: y = x * x
    return y, 2 * x


square_backward = lambda dy, x: 2 * x * dy
pairs = [(lambda x: (x, None), lambda dy, saved: dy)]
"""


def test_functions_by_name(tmp_path):
    module = module_of(tmp_path, FUNCTIONS)
    assert {"Layer.backward", "Layer.backward.inner", "Layer.twice", "square_backward", "<lambda>:39"} <= set(
        functions_of(module)
    )
    for name, rule, after in (
        ("Layer.backward", "factor dropped", "return x"),
        ("Layer.backward.inner", "constant", "return 3 * x"),
        ("Layer.twice", "operator", "return x - x"),
        ("square_backward", "factor dropped", "2 * x"),
    ):
        mutants = mutants_of(module, [name])
        assert (rule, after) in {(mutant.rule, mutant.after) for mutant in mutants} and mutants[0].module()
    with pytest.raises(KeyError):
        mutants_of(module, ["nothing"])


def test_backward_functions_and_what_only_they_call(tmp_path):
    """Also the lines of a forward pass that a comment says to be a gradient."""
    module = module_of(tmp_path, FUNCTIONS)
    assert backward_functions(module) == ["Layer.backward", "f_backward", "_helper", "h_forward", "square_backward"]
    assert {mutant.line for mutant in mutants_of(module, ["h_forward"])} == {35}


def test_a_statement_that_never_runs_is_one_mutant(tmp_path):
    module = module_of(
        tmp_path, "def g(x):\n    if x > 9:\n        x = x + 1\n        x = x * 2\n    return x if x else -x\n"
    )
    observed = observe(module, ["g"], lambda copy: copy.g(1))
    mutants = mutants_of(module, ["g"], observed)
    assert [(m.line, m.before) for m in mutants if m.rule == "never run"] == [(6, "x = x + 1")]
    assert {mutant.line for mutant in mutants} == {5, 6, 8}
    assert "return x if x else x" not in {mutant.after for mutant in mutants}  # -x is never computed
    assert "return -x" in {mutant.after for mutant in mutants}
