"""minillm simulate: kernels of ours, kernels of the reader's own, and what is said where it cannot be done."""

import pytest
from kernel_testing import needs_compiler
from typer.testing import CliRunner

from minillm.checks.cases import KERNELS
from minillm.checks.simulate import parse_argument
from minillm.cli.app import app
from minillm.errors import UserError

SAXPY = """
template <typename T>
__global__ void saxpy(T a, const T* x, T* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"""
ARGUMENTS = ["--grid", "4", "--block", "256", "--kernel", "saxpy<float>"]
ARGUMENTS += [
    part for text in ("float32:2", "float32[1000]=3", "float32[1000]=1", "int32:1000") for part in ("--arg", text)
]


@pytest.fixture(autouse=True)
def simulator():
    needs_compiler()


def simulate(*arguments):
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_agrees_in_its_sample(name):
    code, output = simulate(name)
    assert code == 0 and "relative error" in output


def test_names_are_listed():
    code, output = simulate()
    assert code == 0 and "flash_tensor_cores" in output and "rows 64, width 256" in output


def test_check_and_profile():
    assert "check mode: nothing to report" in simulate("dropout", "--check", "--order", "shuffled")[1]
    output = simulate("naive", "--profile")[1]
    assert "sum += a_row[d] * b_row[d];" in output and any(row.startswith("!") for row in output.splitlines())


def test_a_size_is_taken():
    assert "rows 3, width 5" in simulate("gelu", "--size", 3, "--size", 5)[1]


def test_a_fault_in_a_kernel_of_ours_gives_exit_code_1(monkeypatch):
    from minillm.kernels import gelu

    text = gelu.CUDA.text.replace("1 + 3 * A", "1 + A")
    monkeypatch.setattr(gelu, "CUDA", gelu.CUDA.with_text(text))
    code, output = simulate("gelu")
    assert code == 1 and "too large" in output


def test_a_kernel_of_ones_own(tmp_path):
    (tmp_path / "saxpy.cu").write_text(SAXPY)
    code, output = simulate(tmp_path / "saxpy.cu", *ARGUMENTS)
    assert code == 0 and "argument 2 float32[1000]: from 7 to 7, mean 7" in output
    code, output = simulate(tmp_path / "saxpy.cu", *ARGUMENTS, "--profile")
    assert "global memory: 375 sectors" in output and "y[i] = a * x[i] + y[i];" in output


def test_a_fault_in_a_kernel_of_ones_own(tmp_path):
    (tmp_path / "saxpy.cu").write_text(SAXPY.replace("i < n", "i <= n"))
    code, output = simulate(tmp_path / "saxpy.cu", *ARGUMENTS, "--check")
    assert code == 1 and "saxpy.cu:5: saxpy<float>, block (3, 0, 0), thread (232, 0, 0): out-of-bounds read" in output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing"], 'no kernel "nothing": there are adamw'),
        (["gelu", "--size", "3"], r"gelu takes 2 sizes \(rows, width\), not 1"),
        (["gelu", "--size", "0", "--size", "1"], "sizes are whole numbers from 1 on"),
        (["gelu", "--check", "--profile"], "choose one"),
        (["missing.cu"], "missing.cu does not exist"),
    ],
)
def test_what_cannot_be_run_is_said(arguments, message):
    import re

    code, output = simulate(*arguments)
    assert code == 2 and re.search(message, output), output


def test_a_file_without_a_kernel_named_or_with_wrong_arguments(tmp_path):
    path = tmp_path / "saxpy.cu"
    path.write_text(SAXPY)
    assert simulate(path) == (2, f'{path}: name the kernel to run, such as --kernel "saxpy<float>"')
    code, output = simulate(path, "--kernel", "saxpy<float>", "--arg", "float32:2")
    assert code == 2 and "1 arguments given, the kernel takes 4 (a, x, y, n)" in output
    path.write_text("__global__ void f( {")
    code, output = simulate(path, "--kernel", "f")
    assert code == 2 and "g++ does not accept the kernel" in output


@pytest.mark.parametrize("text", ["float32", "float99:2", "int32:x", "int8:1000", "float32[3", "str:3", "float32[-1]"])
def test_an_argument_that_is_none(text):
    with pytest.raises(UserError, match="write float32:2"):
        parse_argument(text, None)


SEVERAL = """
__global__ void add(const float* a, float* b, int n) { if (threadIdx.x < n) b[threadIdx.x] += a[threadIdx.x]; }
__global__ void stencil(float* y) { extern __shared__ float s[]; s[0] = 1; y[threadIdx.x] = s[0]; }
int main() { add<<<1, 8>>>(nullptr, nullptr, 0); }
"""


def test_an_expectation_may_call_a_method(tmp_path):
    (tmp_path / "total.cu").write_text("__global__ void total(const float* x, float* y) { y[0] = x[0] + x[1]; }")
    arguments = ("--block", "1", "--arg", "float32[2]=3", "--arg", "float32[1]=0")
    code, output = simulate(tmp_path / "total.cu", *arguments, "--expect", "y = x.sum()")
    assert code == 0 and "expected y = x.sum(): passed" in output


def test_kernels_of_a_file_are_listed_and_misspelt_ones_found(tmp_path):
    path = tmp_path / "several.cu"
    path.write_text(SEVERAL)
    code, output = simulate(path)
    assert code == 2 and '--kernel "add" (it has add(const float* a, float* b, int n); stencil(float* y))' in output
    assert simulate(path, "--kernel", "stencli") == (2, f'{path} has no kernel stencli: did you mean "stencil"?')


def test_bare_numbers_small_arrays_and_saved_ones(tmp_path):
    import numpy as np

    path = tmp_path / "several.cu"
    path.write_text(SEVERAL)
    arguments = [part for text in ("float32[4]=2", "float32[4]=1", "4") for part in ("--arg", text)]
    launch = ("--kernel", "add", "--grid", "1,1", "--block", "8,1", *arguments)
    code, output = simulate(path, *launch, "--save", tmp_path / "out.npz")
    assert code == 0 and "argument 1 float32[4]: from 3 to 3, mean 3: 3 3 3 3" in output
    assert "host code is left out: main" in output
    with np.load(tmp_path / "out.npz") as saved:
        assert sorted(saved) == ["a", "b", "n"] and saved["b"].tolist() == [3, 3, 3, 3]
    code, output = simulate(path, "--kernel", "add", *arguments, "--save", tmp_path / "missing" / "out.npz")
    assert code == 2 and "--save" in output
    code, output = simulate(path, "--kernel", "add", "--arg", "float32[4]")
    assert code == 2 and 'such as --arg "float32[1000]" --arg "float32[1000]" --arg int32:1' in output


def test_much_shared_memory_and_an_empty_array(tmp_path):
    path = tmp_path / "several.cu"
    path.write_text(SEVERAL)
    code, output = simulate(path, "--kernel", "stencil", "--block", 1, "--shared", 60000, "--arg", "float32[1]=0")
    assert code == 0 and "cudaFuncSetAttribute" in output and "mean 1: 1" in output
    arguments = [part for text in ("float32[0]", "float32[0]", "0") for part in ("--arg", text)]
    code, output = simulate(path, "--kernel", "add", *arguments)
    assert code == 0 and "argument 1 float32[0]: empty" in output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gelu", "--size", "row=7"], "--size row=7: gelu has the sizes rows, width"),
        (["gelu", "--size", "x"], "write rows=64,width=256"),
        (["gleu"], 'did you mean "gelu"'),
        (["gelu", "--grid", "4"], "--grid is for a .cu file"),
        (["saxpy.cu", "--grid", "4,0"], "--grid 4,0: write one to three whole numbers"),
        (["saxpy.cu", "--size", "3"], "--size is for kernels of minillm"),
    ],
)
def test_options_that_do_not_fit_are_reported(arguments, message):
    code, output = simulate(*arguments)
    assert code == 2 and message in output


def test_sizes_have_names():
    assert "rows 3, width 256" in simulate("gelu", "--size", "rows=3")[1]
