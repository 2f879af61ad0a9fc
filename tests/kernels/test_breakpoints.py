"""minillm simulate --break: where statements begin, which variables are seen, and what is said where none are."""

import pytest
from kernel_testing import needs_compiler
from typer.testing import CliRunner

from minillm.cli.app import app
from minillm.errors import UserError
from minillm.kernels.simulator.breakpoints import _classes, _members
from minillm.kernels.simulator.statements import Text

KERNEL = """\
#define TILE 16
#define FOR_ROWS(row, rows) for (int row = blockIdx.x; row < (rows); row += gridDim.x)
#include "sums.cuh"
template <int N, typename T>
__global__ void row_sum(const T* __restrict__ x, T* y, int rows, int width) {
    __shared__ float tile[N];
    int lane = threadIdx.x; float4 four = make_float4(1, 2, lane, 4); float never;
    Sums sums = {0.5f, {1, 2, 3}, 7};
    auto [first, second] = Pair{lane, 2.5f};
    FOR_ROWS(row, rows) {
        const T* at = x + row * width;
        if (lane < 5) continue;
        float sum = 0;
        #pragma unroll
        for (int i = lane; i < width;
             i += 32) {
            T value = at[i];
            auto square = [&sum, lane](float a) {
                float b = a * a;
                return b;
            };
            if (i % 2 == 0)
                sum += value;
            else
                sum += square(value);
        }
        {
            double sum = 1.25;
            tile[lane] = sum;
        }
        do {
            sums.total += sum; sums.count++;
        } while (sum < 0);
        switch (lane % 3) {
            case 0: y[row] = first; break;
            default:
                y[row] = second
                    + four.x;
        }
    }
}
int main() {
    row_sum<32, float><<<1, 32>>>(0, 0, 1, 1);
}
"""
HEADER = """\
#pragma once
struct Sums { float total, parts[3]; int count; };
struct Pair { int a; float b; };
__device__ inline float half_of(float x) {
    return 0.5f * x;
}
"""
LINES = {
    7: (7, "listed"), 11: (11, "listed"), 12: (12, "listed"), 15: (15, "listed"), 16: (15, "listed"), 19: (19, "listed"),
    22: (22, "listed"), 23: (23, "controlled"), 25: (25, "controlled"), 29: (29, "listed"), 31: (31, "listed"),
    33: (33, "condition"), 35: (35, "listed"), 37: (37, "listed"), 38: (37, "listed"), 5: (6, "listed"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "sum.cu").write_text(KERNEL)
    (tmp_path / "sums.cuh").write_text(HEADER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stop(*arguments, kernel="row_sum<32, float>", expected=0):
    needs_compiler()
    words = [
        "simulate",
        "sum.cu",
        "--kernel",
        kernel,
        "--block",
        "32",
        "--arg",
        "float32[200]=2",
        "--arg",
        "float32[2]",
    ]
    result = CliRunner().invoke(app, [*words, "--arg", "2", "--arg", "100", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        assert expected == 2, result.exception
        return str(result.exception)
    assert result.exit_code == expected, result.output
    return result.output


@pytest.mark.parametrize("line", LINES)
def test_where_a_statement_begins(line):
    text = Text(KERNEL)
    statement = text.statement_at(text.function_at(line), line)
    assert (text.line(statement.start), statement.way) == LINES[line]


@pytest.mark.parametrize("line", [21, 24, 26, 34 - 7, 40])
def test_a_line_without_a_statement(line):
    text = Text(KERNEL)
    assert text.statement_at(text.function_at(line), line) is None


def test_a_call_comes_before_the_pragma_of_a_loop():
    text = Text(KERNEL)
    statement = text.statement_at(text.function_at(15), 15)
    assert text.line(text.insertion(statement)) == 14


def test_the_fields_of_classes():
    found = _classes(
        ["struct A { int a; float b[2], c = 1; void f(int x) { int y; } static int d; }; class B { public: A* p; };"]
    )
    assert found == [["a", "b", "c"], ["p"]] or found == [("a", "b", "c"), ("p",)]
    assert _members("struct alignas(16) V { float x, y; V() : x(0) {} unsigned low : 4; };", 22) == ["x", "y", "low"]


def test_the_variables_of_a_warp(folder):
    output = stop("--break", 17, "--thread", 7)
    assert "before sum.cu:17 is executed the first time" in output and "17              T value = at[i];" in output
    equal = " ".join(output[output.index("equal in all lanes") : output.index("   lane")].split())
    for shown in (
        "x = &x[0]",
        "y = &y[0]",
        "rows = 2",
        "row = 0",
        "at = &x[0]",
        "sum = 0",
        "never = unset",
        "second = 2.5",
    ):
        assert shown in equal, shown
    assert "sums = {total 0.5 parts [1 2 3] count 7}" in equal and "N = 32" in equal
    assert [row.split()[1] for row in output.splitlines() if row.startswith(">")][0] == "7"
    rows = {row[1:].split()[0]: row for row in output.splitlines() if row[1:].split() and row[1:].split()[0].isdigit()}
    assert "does not come to this line" in rows["4"] and "[1 2 7 4]" in output
    assert all(len(row) <= 80 for row in output.splitlines())
    assert "argument 1 float32[2]" in output  # the kernel went on to its end


def test_the_second_time_and_the_innermost_of_two_names(folder):
    output = stop("--break", 29, "--thread", 7, "--hit", 2)
    assert "is executed time 2" in output and "sum = 1.25" in output and "row = 1" in output


def test_what_a_lambda_has_not_captured_is_said(folder):
    output = stop("--break", 19, "--thread", 7)
    assert "a = 2" in output and "width is not shown: 'width' is not captured" in output


def test_a_branch_without_braces_and_the_end_of_a_do_loop(folder):
    output = stop("--break", 25, "--thread", 8)
    assert "value = 2" in output and ">     8       8  - does not come to this line" in output
    assert "count 8" in stop("--break", 33, "--thread", 7)


def test_a_header_and_a_kernel_of_minillm(folder, monkeypatch):
    needs_compiler()
    result = CliRunner().invoke(app, ["simulate", "gelu", "--size", "2,8", "--break", "vectors.cuh:1"])
    assert isinstance(result.exception, UserError) and "the line is in no function of" in str(result.exception)
    from minillm import kernels

    source = (__import__("pathlib").Path(kernels.__path__[0]) / "gelu.cu").read_text().splitlines()
    line = next(i for i, row in enumerate(source, 1) if "__global__" in row) + 1
    result = CliRunner().invoke(app, ["simulate", "gelu", "--size", "2,8", "--break", str(line)])
    assert result.exit_code == 0 and "relative error" in result.output and "= &" in result.output


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("--break", 99), 2, "sum.cu has the lines 1 to 44"),
        (("--break", 26), 2, "no statement begins on that line"),
        (("--break", 2), 2, "the line is in no function"),
        (("--break", 43), 2, "main belongs to the host"),
        (("--break", "x"), 2, "write the number of a line, such as 12"),
        (("--break", 13, "--thread", "0,x"), 2, "one to three whole numbers from 0 on"),
        (("--break", "other.cuh:3"), 2, "no kernel that ran is in that file; there are sum.cu"),
        (("--break", 13, "--check"), 2, "leave out --check"),
        (("--thread", 3), 2, "give --break, too"),
    ],
)
def test_what_is_said_where_nothing_can_be_shown(folder, arguments, code, message):
    assert message in stop(*arguments, expected=code)


def test_threads_out_of_range_and_lines_that_are_not_reached(folder):
    assert "--thread 32: row_sum<32, float> runs with a block of (32, 1, 1) threads" in stop(
        "--break", 13, "--thread", 32, expected=2
    )
    assert "sums.cuh:5: no thread comes to this line" in stop("--break", "sums.cuh:5", expected=1)
    assert "comes there 2 times, not 3" in stop("--break", 13, "--hit", 3, expected=1)
