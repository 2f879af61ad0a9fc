"""`minillm gradcheck file.py`: a user's layers and pairs are found, called with inputs of our making, and checked."""

import subprocess
import sys

import numpy as np
import pytest
from own_styles import STYLES

from minillm.checks.gradcheck import CannotTell
from minillm.checks.own_code import loading
from minillm.checks.own_code.loading import load
from minillm.checks.own_code.mutating import mutate_module
from minillm.checks.own_code.running import check_module
from minillm.cli.gradcheck_own import check_own_code
from minillm.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Writes a file, a new one for each text, and returns its path."""
    count = iter(range(100))

    def written(text: str, name: str = "") -> str:
        path = tmp_path / (name or f"own_{next(count)}.py")
        path.write_text(text)
        return str(path)

    return written


def results(path: str, names=None, given=None, method="differences"):
    return {result.name: result for result in check_module(load(path)[0], names, given, method)}


# ------------------------------------------------------------------------------------------------------ what people write


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_what_is_right_passes(style, write):
    found = results(write(style.source))
    assert style.name in found
    for result in found.values():
        assert result.report is not None and result.report.verdict == "passed", (
            result.name,
            result.reason,
            result.error,
        )
        assert not [note for note in result.notes if "not checked" in note]
    assert style.shapes in found[style.name].shapes


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_what_is_wrong_fails_with_the_element_and_the_first_wrong_line(style, write):
    assert style.source.count(style.right) == 1
    result = results(write(style.source.replace(style.right, style.wrong)))[style.name]
    assert result.failed and not isinstance(result.error, CannotTell), (result.reason, result.report)
    assert f"the gradient of {style.tensor} " in str(result.error) and "is wrong at (" in str(result.error)
    if style.line:
        assert f": {style.line}" in str(result.error).partition("first wrong: ")[2]


def test_a_slope_in_terms_of_y_passes_and_is_noted(write):
    result = results(write(STYLES["activations and their derivatives"].source))["sigmoid"]
    assert result.notes == [
        "sigmoid_derivative is the slope in terms of y: it takes the result of sigmoid, not its argument"
    ]


@pytest.mark.parametrize(
    "kept, used",
    [("x", "(cache > 0)"), ("(x > 0) * 1.0", "cache"), ("x, x > 0", "cache[1]"), ("(x, 1)", "(cache[0] > 0)")],
    ids=["an input", "an array", "two arrays", "a tuple"],
)
def test_a_cache_is_what_forward_returns_beside_y(kept, used, write):
    source = f"""
import numpy as np
def relu_forward(x):  # x: (N, D)
    out = np.maximum(0, x)
    return out, {kept}
def relu_backward(dout, cache):
    return dout * {used}
"""
    assert results(write(source))["relu"].report.verdict == "passed"
    assert results(write(source.replace("dout *", "-dout *")))["relu"].failed


def test_a_result_without_a_name_is_not_an_argument(write):
    source = """
import numpy as np
def huber(y, t, delta=1.0):
    d = y - t
    return np.where(np.abs(d) <= delta, 0.5 * d * d, delta * (np.abs(d) - 0.5 * delta)).mean()
def huber_grad(y, t, delta=1.0):
    return np.clip(y - t, -delta, delta) / y.size
"""
    assert results(write(source))["huber"].report.verdict == "passed"
    assert results(write(source.replace("/ y.size", "/ len(y)")))["huber"].failed


def test_gradients_kept_in_float32_are_checked_in_float64(write):
    source = """
import numpy as np
class Tensor:
    def __init__(self, data):
        self.data, self.grad = data, np.zeros_like(data)
class Linear:
    def __init__(self, nin, nout):
        self.w = Tensor(np.random.randn(nin, nout).astype(np.float32))
    def forward(self, x):
        self.x = x
        return x @ self.w.data
    def backward(self, dout):
        self.w.grad += self.x.T @ dout
        return dout @ self.w.data.T
"""
    result = results(write(source))["Linear"]
    assert result.report.verdict == "passed" and "w.data" in result.inputs


def test_the_default_of_a_setting_is_the_same_in_both(write):
    source = """
import numpy as np
def leaky_relu(x, alpha=0.01):
    return np.where(x > 0, x, alpha * x)
def dleaky_relu(x, alpha=0.01):
    return np.where(x > 0, 1, alpha)
"""
    for defaults in ("alpha=0.01", "alpha"):
        right = source.replace("dleaky_relu(x, alpha=0.01", f"dleaky_relu(x, {defaults}")
        assert results(write(right))["leaky_relu"].report.verdict == "passed"
    assert results(write(source.replace("dleaky_relu(x, alpha=0.01", "dleaky_relu(x, alpha=0.02")))["leaky_relu"].failed


def test_the_gradient_from_above_may_be_the_last_argument(write):
    source = """
import numpy as np
def linear(x, W): return x @ W
def linear_vjp(x, W, g): return g @ W.T, x.T @ g
"""
    assert set(results(write(source))["linear"].inputs) == {"x", "W"}
    assert results(write(source.replace("x.T @ g", "-x.T @ g")))["linear"].failed


def test_what_only_backward_takes_is_asked_for(write):
    source = """
import numpy as np
def forward_propagation(X, parameters):
    \"\"\"X -- input of size (n_x, m); parameters -- dict with W1 (n_h, n_x) and b1 (n_h, 1)\"\"\"
    A1 = np.tanh(parameters["W1"] @ X + parameters["b1"])
    cache = {"A1": A1}
    return A1, cache
def backward_propagation(parameters, cache, X, Y):
    dZ1 = cache["A1"] - Y
    return {"dW1": dZ1 @ X.T, "db1": dZ1.sum(axis=1, keepdims=True)}
"""
    assert "what its argument Y is cannot be told" in results(write(source))["propagation"].reason
    with_dy = source.replace("X, Y)", "X, dA1)").replace('cache["A1"] - Y', 'dA1 * (1 - cache["A1"] ** 2)')
    assert set(results(write(with_dy))["propagation"].inputs) == {"parameters['W1']", "parameters['b1']"}


def test_a_loss_leaves_no_gradient_of_its_labels(write):
    source = """
import numpy as np
class Loss:
    def forward(self, y_pred, y_true):
        return np.mean((y_true - y_pred) ** 2, axis=-1)
    def backward(self, dvalues, y_true):
        self.dinputs = -2 * (y_true - dvalues) / dvalues.size
"""
    assert list(results(write(source))["Loss"].inputs) == ["y_pred"]
    assert results(write(source.replace("-2", "2")))["Loss"].failed


def test_settings_in_an_object_of_the_file(write):
    source = """
import numpy as np
class Config:
    def __init__(self, d=8):
        self.d = d
class Scale:
    def __init__(self, cfg: Config):
        self.g = np.ones(cfg.d)
    def forward(self, x):
        self.x = x
        return self.g * x
    def backward(self, dout):
        self.dg = (dout * self.x).sum(axis=0)
        return dout * self.g
"""
    assert results(write(source))["Scale"].inputs["g"] == (8,)
    assert results(write(source.replace("dout * self.g", "dout")))["Scale"].failed


def test_a_loss_that_returns_gradients_and_a_state(write):
    source = """
import numpy as np
def loss_fun(inputs, h0, W, U):
    \"\"\"inputs: a list of integers, h0: (H, 1), W: (H, V), U: (H, H)\"\"\"
    x = np.zeros((W.shape[1], 1))
    x[inputs[0]] = 1
    h = np.tanh(W @ x + U @ h0)
    loss = (h * h).sum()
    draw = 2 * h * (1 - h * h)
    dW, dU, dh0 = draw @ x.T, draw @ h0.T, U.T @ draw
    return loss, dW, dU, dh0, h
"""
    assert set(results(write(source))["loss_fun"].inputs) == {"h0", "W", "U"}
    assert results(write(source.replace("2 * h * (1", "h * (1")))["loss_fun"].failed


def test_examples_that_are_columns(write):
    source = """
import numpy as np
class Dense:
    def __init__(self, input_size, output_size):
        self.weights, self.bias = np.random.randn(output_size, input_size), np.random.randn(output_size, 1)
    def forward(self, input):
        self.input = input
        return np.dot(self.weights, self.input) + self.bias
    def backward(self, output_gradient, learning_rate):
        input_gradient = np.dot(self.weights.T, output_gradient)
        self.weights -= learning_rate * np.dot(output_gradient, self.input.T)
        self.bias -= learning_rate * output_gradient
        return input_gradient
"""
    assert results(write(source))["Dense"].inputs["input"][1] == 1
    late = source.replace(
        "return input_gradient", "return np.dot(self.weights.T, output_gradient)"
    )  # those of the next step
    assert results(write(late))["Dense"].failed


def test_a_word_that_an_argument_is_compared_with(write):
    source = """
import numpy as np
def layer_forward(x, activation):  # x: (N, D)
    return (np.tanh(x) if activation == "tanh" else x * x), x
def layer_backward(dout, cache, activation):
    return dout * (1 - np.tanh(cache) ** 2 if activation == "tanh" else 2 * cache)
"""
    assert results(write(source))["layer"].report.verdict == "passed"
    assert results(write(source.replace("1 - np", "1 + np")))["layer"].failed


@pytest.mark.parametrize("name, comment", [("one_hot", ""), ("t", " one-hot")])
def test_labels_are_one_hot_where_that_is_said(name, comment, write):
    source = f"""
import numpy as np
def loss_forward(z, {name}):
    # z: (N, C)
    # {name}: (N, C){comment}
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return -({name} * np.log(p)).sum() / len(z), (p, {name})
def loss_backward(dloss, cache):
    p, {name} = cache
    return dloss * (p - {name}) / len(p)
"""
    found = results(write(source))
    (result,) = found.values()
    assert result.report.verdict == "passed" and not result.notes


def test_a_shape_taken_apart_in_a_method_is_that_of_the_constructor(write):
    source = """
import numpy as np
class Scale:
    def __init__(self, W):
        self.W = W
    def forward(self, x):
        A, B, C = self.W.shape
        A, B, C = x.shape
        self.x = x
        return x * self.W
    def backward(self, dout):
        self.dW = dout * self.x
        return dout * self.W
"""
    result = results(write(source))["Scale"]
    assert result.report.verdict == "passed" and len(result.inputs["W"]) == 3


def test_an_average_that_forward_does_not_take_is_named(write):
    source = """
import numpy as np
def linear_forward(A, W):  # A: (n, m), W: (k, n)
    return np.dot(W, A), (A, W)
def linear_backward(dZ, cache):
    A, W = cache
    dW = np.dot(dZ, A.T) / A.shape[1]
    return np.dot(W.T, dZ), dW
"""
    result = results(write(source))["linear"]
    share = f"backward gives 1/{result.inputs['A'][1]} of the right numbers"
    assert result.failed and any(note.startswith(share) for note in result.notes)
    wrong = results(write(source.replace("dW = np.dot(dZ, A.T) / A.shape[1]", "dW = np.dot(dZ, A.T) * A.sum()")))[
        "linear"
    ]
    assert wrong.failed and not any("of the right numbers" in note for note in wrong.notes)


def test_the_complex_step(write):
    style = STYLES["course, functions with a cache"]
    assert results(write(style.source), method="complex")["affine"].report.worst.error < 1e-13


# ----------------------------------------------------------------------------------------------------- shapes and settings

PRODUCT = """
import numpy as np
{comment}
def product_forward({x}, {w}):
    {doc}
    return x @ w, (x, w)

def product_backward(dy, cache):
    x, w = cache
    return dy @ w.swapaxes(-1, -2), x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
"""


@pytest.mark.parametrize(
    "comment, x, w, doc, shapes",
    [
        ("# x: (N, D)  w: (D, M)", "x", "w", "", "x (3, 4), w (4, 5)"),
        ("", "x", "w", "# x: (N, D), w: (D, M)", "x (3, 4), w (4, 5)"),
        ("", "x", "w", "x (B, T, C) -> y (B, T, V), w (C, V)", "x (2, 3, 4), w (4, 7)"),
        ("", "x", "w", "x : ndarray, shape (n_in, d)\n    w : array of shape (d, 2d)", "x (3, 4), w (4, 8)"),
        ("", "x", "w", "Args:\n    x (np.ndarray): of shape (batch, 784).\n    w: [784, 10]", "x (2, 3), w (3, 10)"),
        ("", "x", "w", ":param x: input, shape=(N, D)\n    :param w: weights, shape=(D, M)", "x (3, 4), w (4, 5)"),
        ("", "x", "w", "x -- data: numpy array of shape (n, m)\n    w -- of shape (m, k)", "x (3, 4), w (4, 2)"),
        ("", "x: 'Float[Array, \"N D\"]'", "w: '(D, M)'", "", "x (3, 4), w (4, 5)"),
        (
            "# gradcheck: x = np.ones((2, 5))\n# gradcheck: w = rng.normal(size=(5, 3))",
            "x",
            "w",
            "",
            "x (2, 5), w (5, 3)",
        ),
    ],
)
def test_shapes_are_read_where_people_write_them(comment, x, w, doc, shapes, write):
    doc = doc if doc.startswith("#") else f'"""\n    {doc}\n    """'
    result = results(write(PRODUCT.format(comment=comment, x=x, w=w, doc=doc)))["product"]
    assert result.report.verdict == "passed" and result.shapes == shapes and not result.guessed


def test_the_comment_of_an_argument_is_of_its_line(write):
    text = PRODUCT.format(comment="", x="x", w="w", doc="").replace(
        "(x, w):", "(\n    x,  # (B, T, C)\n    w,  # (C, 4C)\n):", 1
    )
    assert results(write(text))["product"].shapes == "x (2, 3, 4), w (4, 16)"


def test_the_products_comment_gives_the_shapes_of_its_operands(write):
    text = PRODUCT.format(comment="", x="x", w="w", doc="y = x @ w  # (B, T, C) @ (C, 4C) -> (B, T, 4C)")
    assert results(write(text))["product"].shapes == "x (2, 3, 4), w (4, 16)"


def test_inputs_of_the_command_line_come_first(write):
    path = write(PRODUCT.format(comment="", x="x", w="w", doc="# x: (N, D), w: (D, M)"))
    assert results(path, given={"x": "2,6", "product_forward.w": "6,3"})["product"].shapes == "x (2, 6), w (6, 3)"
    assert results(path, given={"x": "=np.eye(4)[:2]"})["product"].shapes == "x (2, 4), w (4, 5)"
    with pytest.raises(UserError, match=r"--input x==np.nope: AttributeError"):
        results(path, given={"x": "=np.nope"})["product"]
    with pytest.raises(UserError, match=r"--input x=a,b: write --input x=3,5 \(a shape\)"):
        results(path, given={"x": "a,b"})["product"]


IMAGE = """
import numpy as np
def tiles_forward(image, weight):
    return image.reshape(7, 2, 4) @ weight, (image, weight)
def tiles_backward(dy, cache):
    image, weight = cache
    return (dy @ weight.T).reshape(image.shape), np.einsum('nij,nik->jk', image.reshape(7, 2, 4), dy)
"""


def test_what_nothing_tells_is_asked_for_in_one_line(write):
    path = write(IMAGE)
    reason = results(path)["tiles"].reason
    assert reason.startswith("nothing tells the shape of image and weight (ValueError: ") and "\n" not in reason
    assert (
        "--input image=3,5 (a shape), --input image=int:10:4 (integers below 10), or in the file  # image: (N, D)"
        in reason
    )
    assert results(path, given={"image": "14,4", "weight": "4,3"})["tiles"].report.verdict == "passed"
    told = IMAGE.replace("    return image", "    # image: (7, 8)  weight: (4, 3)\n    return image", 1)
    assert results(write(told))["tiles"].shapes == "image (7, 8), weight (4, 3)"


def test_integers_are_known_by_their_use_their_name_or_their_comment(write):
    text = """
import numpy as np
def lookup_forward(table, {0}):
    {1}
    return np.take(table, {0}, axis=0), (table, {0})
def lookup_backward(dy, cache):
    table, {0} = cache
    dtable = np.zeros_like(table)
    np.add.at(dtable, {0}, dy)
    return dtable
"""
    for name, told in (("which", "pass"), ("tokens", "pass"), ("z", "# table: (V, D)  z: (B, T) integers below V")):
        assert results(write(text.format(name, told)))["lookup"].report.verdict == "passed"
    assert results(write(text.format("w", "pass")), given={"w": "int:3:5"})["lookup"].report.verdict == "passed"


def test_an_argument_of_backward_that_cannot_be_told_is_named(write):
    text = "def f_forward(x, w):\n    return x * w\ndef f_backward(dy, x, magic):\n    return dy * magic, dy * x\n"
    assert "f_backward: what its argument magic is cannot be told" in results(write(text))["f"].reason


def test_letters_are_small_and_different(write):
    text = '"""{}"""'.format("\n    ".join(["x: (N, D)", "w: (D, M)"]))
    result = results(write(PRODUCT.format(comment="", x="x", w="w", doc=text)))["product"]
    assert result.shapes == "x (3, 4), w (4, 5)"


def test_how_an_object_is_made_can_be_said(write):
    text = """
import numpy as np
class Conv:
    # gradcheck: self = Conv(np.random.randn(2, 3))
    def __init__(self, weird):
        self.k = weird
    def forward(self, x):
        self.x = x
        return x * self.k
    def backward(self, d):
        self.dk = d * self.x
        return d * self.k
"""
    result = results(write(text), given={"x": "2,3"})["Conv"]
    assert result.report.verdict == "passed" and result.shapes == "x (2, 3), k (2, 3)"


# ---------------------------------------------------------------------------------------------- what cannot be checked


def test_what_cannot_be_checked_is_listed_with_the_reason(write):
    text = """
import numpy as np
def square_forward(x):
    return x * x, x
def square_backward(dy, x):
    return 2 * x * dy
def lonely_backward(dy, cache):
    return dy
class Strange:
    def backward(self, dy):
        return dy
class Half:
    def __init__(self, path):
        self.w = np.load(path)
    def forward(self, x):
        return x * self.w
    def backward(self, dy):
        return dy * self.w
"""
    found = results(write(text))
    assert found["square"].report.verdict == "passed"
    assert found["lonely_backward"].reason == "no forward of this name: lonely_forward or lonely is looked for"
    assert found["Strange"].reason == "it has backward, and neither forward nor __call__ with an argument"
    assert "nothing tells the shape of" in found["Half"].reason


def test_an_array_without_a_gradient_is_noted(write):
    text = STYLES["another book, params and grads in lists"].source
    forgotten = text.replace("        self.grads[1][...] = db\n", "").replace(
        "np.zeros_like(W), np.zeros_like(b)]", "np.zeros_like(W)]"
    )
    result = results(write(forgotten))["Affine"]
    assert result.notes == ["self.params[1] has no gradient after backward: not checked"]


def test_nothing_to_check_says_what_is_looked_for(write):
    with pytest.raises(UserError, match="nothing to check is found. Looked for: NAME_forward and NAME_backward"):
        results(write("x = 1\n"))
    with pytest.raises(UserError, match=r"nothing can be checked: f_backward \(line 1\): no forward .* Looked for"):
        results(write("def f_backward(dy):\n    return dy\n"))
    with pytest.raises(UserError, match='has no "g" to check: it has f'):
        results(write("def f(x):\n    return x\ndef f_grad(dy, x):\n    return dy\n"), ["g"])


def test_float32_in_the_users_code_is_said_to_look_like_a_wrong_gradient(write):
    text = (
        "import numpy as np\ndef f(x):\n    # x: (2, 2)\n    h = x.astype(np.float32)\n    return np.exp(h) + 0 * x\n"
    )
    text += "def f_grad(dy, x):\n    return dy * np.exp(x)\n"
    result = results(write(text))["f"]
    assert result.failed and any(note.startswith("line 4 has float32: it keeps 7 digits") for note in result.notes)


def test_inputs_are_drawn_until_none_lies_at_a_kink(write):
    """The generator's first numbers would put the maximum's two operands at the same place."""
    text = "import numpy as np\ndef f(x):\n    # gradcheck: x = rng.integers(-1, 2, (2, 3)).astype(float)\n"
    text += "    return np.maximum(x, 0)\ndef f_grad(dy, x):\n    return dy * (x > 0)\n"
    result = results(write(text))["f"]
    assert result.report.verdict == "passed"
    assert all(note.startswith(("kink at x[", "1 more")) for note in result.report.notes)


# ------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "import argparse\nargparse.ArgumentParser().parse_args(['--nope'])\n",
            "ends itself when imported (exit 2) in line 2",
        ),
        ("x = 1\ndata = open('/nowhere/train.csv').read()\n", "FileNotFoundError: .* in line 2"),
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name' in line 1: install it"),
        ("def f(:\n", "line 1: invalid syntax"),
        ("name = input('your name')\n", "EOFError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero in line 1"),
    ],
)
def test_what_stops_an_import_is_said_in_one_line(text, said, write):
    with pytest.raises(UserError) as caught:
        load(write(text))
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in said.split(" .* ")), str(caught.value)


def test_a_script_that_trains_when_imported_is_interrupted(write):
    with pytest.raises(UserError, match=r"still busy after 0.2 s of import: does it train\? put it under  if __name__"):
        load(write("while True:\n    pass\n"), longest=0.2)


def test_a_file_is_imported_beside_its_neighbours_and_nothing_is_written(write, tmp_path, monkeypatch):
    write("def twice(x):\n    return 2 * x\n", "own_neighbour.py")
    main = "from own_neighbour import twice\nimport sys\nassert sys.argv[1:] == []\nprint('hello')\n"
    main += "if __name__ == '__main__':\n    1 / 0\n"
    module, only = load(write(main + "def f(x):\n    return twice(x)\ndef f_grad(dy, x):\n    return 2 * dy\n") + ":f")
    assert only == "f" and module.twice(2) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own_0.py", "own_neighbour.py"]


def test_a_module_by_name_and_a_part_of_a_package(write, tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    write("", "own_package/__init__.py")
    write("import numpy as np\n", "own_package/tools.py")
    path = write(
        "from .tools import np\ndef f(x):\n    return np.tanh(x)\ndef df(x):\n    return 1 - np.tanh(x) ** 2\n",
        "own_package/ops.py",
    )
    assert results(path)["f"].report.verdict == "passed"
    monkeypatch.chdir(tmp_path)
    module, only = load("own_package.ops:f")
    assert (module.__name__, only) == ("own_package.ops", "f")
    assert loading.is_own_code("own_package.ops:f") and not loading.is_own_code("layer_norm")


def test_what_is_no_python_file_is_refused(write):
    for place, said in (("nope.py", "no file nope.py"), ("a/b", "is no Python file"), ("x.ipynb", "nbconvert")):
        with pytest.raises(UserError, match=said):
            load(place)


def test_random_numbers_of_the_caller_are_left_alone(write):
    np.random.seed(5)
    expected = np.random.RandomState(5).rand(3)
    results(write(STYLES["course, dropout with hidden random numbers"].source))
    assert np.array_equal(np.random.rand(3), expected)


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command(write, tmp_path, monkeypatch, capsys):
    style = STYLES["course, functions with a cache"]
    write(style.source + "def lonely_backward(dy):\n    return dy\n", "good.py")
    write(style.source.replace(style.right, style.wrong), "bad.py")
    monkeypatch.chdir(tmp_path)
    assert check_own_code(["good.py"], []) == 0
    said = capsys.readouterr().out
    assert "1 checked, 0 failed, 1 not checked, tolerance 1e-06" in said
    assert "NOT CHECKED lonely_backward (line 29): no forward of this name" in said
    assert check_own_code(["good.py:affine", "bad.py", "affine"], []) == 1
    said = capsys.readouterr().out
    assert "FAILED affine: the gradient of b (6,) is wrong at" in said
    assert "first wrong: bad.py:27: db = np.mean(dout, axis=0)" in said and "dx and dw before it are right" in said
    assert check_own_code(["good.py", "lonely_backward"], []) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.py", "good.py"]


def test_the_command_line_ends_with_2_and_one_line_where_there_is_no_file(tmp_path):
    command = [sys.executable, "-m", "minillm", "gradcheck", "nothing.py", "--input", "x=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1


def test_mutants_of_a_users_backward(write, capsys):
    path = write(STYLES["no cache, the inputs once more"].source)
    assert check_own_code([path], [], mutate=True) == 0
    said = capsys.readouterr().out
    assert "relu: " in said and "mutants of its backward are noticed" in said
    # at z = 0 alone the two differ: which no input made by us has
    assert "survives: " in said and "return dout * (z > 0)  ->  return dout * (z >= 0)" in said
    (mutated,) = mutate_module(load(path)[0], {"mse"})
    assert len(mutated.outcomes) > 8
    assert [mutant.after for mutant in mutated.survivors] == [
        "return 2 * (y_pred - y_true) / np.size(y_pred)"
    ]  # the same number


def test_a_backward_that_raises_is_a_failure(write):
    text = "import numpy as np\ndef f(x):\n    return np.tanh(x)\ndef f_grad(dy, x):\n    return dy @ np.ones((5, 9))\n"
    assert "(backward raises ValueError: matmul" in results(write(text))["f"].reason  # it may be our guess of a shape
    text = text.replace("f(x):", "f(x):  # x: (N, D)")
    result = results(write(text))["f"]
    assert (
        result.failed
        and "f: backward raises ValueError: matmul" in str(result.error)
        and "in line 5" in str(result.error)
    )
