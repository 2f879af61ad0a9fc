"""Mutants of CUDA kernels: the rules, the program that has all of them, what notices them, and the list of survivors."""

import json
import os
import signal
import sys
import time
import zlib

import kernel_mutants
import numpy as np
import pytest
from children import children
from kernel_mutants import PAGE, RESULTS, digest, mutants_of, page, survivors
from kernel_survivors import SURVIVORS, reason

from minillm.checks.mutation import kernel_run
from minillm.checks.mutation.kernel_cases import NAMES, mutate_case
from minillm.checks.mutation.kernel_children import allow, in_children
from minillm.checks.mutation.kernel_files import mutate_file
from minillm.checks.mutation.kernel_rules import RULES
from minillm.checks.mutation.kernel_run import sample
from minillm.checks.mutation.kernel_schema import schema_of
from minillm.checks.simulate import FileRun
from minillm.cli import main
from minillm.errors import UserError

# Which part of the kernels' mutants a run of the tests takes: another one for each commit in continuous integration.
TURN = zlib.crc32(os.environ.get("GITHUB_SHA", "").encode())
COSTLY = ("tiled", "online", "flash")  # to compile, and to run in check mode
TOO_COSTLY = "flash_tensor_cores"  # a minute and a half to compile

SUM = """\
#define SQUARE(x) ((x) * (x))

__device__ inline float square(float x) { return SQUARE(x); }

// sums of squares, and y = a x + y
__global__ void sums(int n, float a, const float* x, float* y, float* sums) {
    __shared__ float partial[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float value = 0.0f;
    if (i < n) {
        y[i] = a * x[i] + y[i];
        value = square(x[i]);
    }
    partial[threadIdx.x] = value;
    __syncthreads();
    for (int s = blockDim.x / 2; s > 0; s >>= 1) {
        if (threadIdx.x < s) partial[threadIdx.x] += partial[threadIdx.x + s];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = partial[0];
}
"""
ARGUMENTS = [
    "--grid",
    "4",
    "--block",
    "64",
    "--arg",
    "250",
    "--arg",
    "2",
    "--arg",
    "float32[250]",
    "--arg",
    "float32[250]",
]
ARGUMENTS += ["--arg", "float32[4]=0"]
EXPECTED = ["--expect", "y = a * x + y", "--expect", "sums = np.pad(x**2, (0, 6)).reshape(4, 64).sum(1)"]


def changes(source, parameters="int n, float a, float b, const float* x, float* y"):
    """(rule, before, after) of the mutants of a kernel's body."""
    text = f"__global__ void k({parameters}) {{\n{source}\n}}\n"
    return {(m.rule, m.before, m.after) for m in schema_of(text, "k.cu", (), "x86_64").mutants}


@pytest.mark.parametrize(
    "source, rule, before, after",
    [
        ("__syncthreads();", "barrier", "__syncthreads();", ""),
        ("__syncwarp();", "barrier", "__syncwarp();", ""),
        ("block.sync();", "barrier", "block.sync();", ""),
        ("if (n < 3) y[0] = a;", "border", "n < 3", "n <= 3"),
        ("if (n < 3) y[0] = a;", "bound", "n < 3", "true"),
        ("y[0] = n < 3 ? a : b;", "bound", "n < 3", "false"),
        ("if (n < 3 && a > b) y[0] = a;", "bound", "n < 3 && a > b", "bool(a > b)"),
        ("y[n] = a;", "index", "n", "n + 1"),
        ("y[n] = a;", "index", "n", "n - 1"),
        ("y[n * 8] = a;", "stride", "n * 8", "n * (8 + 1)"),
        ("y[0] = a - b;", "operands", "a - b", "b - a"),
        ("y[0] = a + b;", "operator", "a + b", "a - b"),
        ("y[0] = a * b;", "term", "a * b", "b"),
        ("y[0] += a;", "assignment", "y[0] += a", "y[0] = a"),
        ("y[0] = a;", "statement", "y[0] = a;", ""),
        ("if (n) return;", "statement", "return;", ""),
        ("y[0] = fmaxf(a, b);", "extreme", "fmaxf(a, b)", "fminf(a, b)"),
        ("y[0] = expf(a);", "function", "expf(a)", "a"),
        ("y[0] = -INFINITY;", "initial", "-INFINITY", "0"),
        ("y[0] = 32;", "constant", "32", "16"),
        ("y[0] = -a;", "sign", "-a", "a"),
        ("y[0] = threadIdx.x;", "thread", "threadIdx.x", "threadIdx.y"),
        ("y[0] = blockDim.x;", "thread", "blockDim.x", "gridDim.x"),
        (
            "a = __shfl_down_sync(~0u, a, n);",
            "lanes",
            "__shfl_down_sync(~0u, a, n)",
            "__shfl_down_sync(~0u, a, (n) / 2)",
        ),
        ("a = __shfl_xor_sync(~0u, a, n);", "lanes", "__shfl_xor_sync(~0u, a, n)", "__shfl_xor_sync((~0u) >> 1, a, n)"),
        ("for (int i = 0; i < n; i += 4) y[i] = a;", "stride", "i += 4", "i += 4 + 1"),
    ],
)
def test_a_rule_changes_its_places(source, rule, before, after):
    assert (rule, before, after) in changes(source)


def test_every_rule_has_an_example():
    marks = test_a_rule_changes_its_places.pytestmark[0].args[1]
    assert {each[1] for each in marks} == RULES.keys()


@pytest.mark.parametrize(
    "source",
    [
        "constexpr int four = 2 + 2;",  # the compiler needs these
        "const int WIDE = 4 * 8; float local[WIDE + 1];",
        "__shared__ float tile[32][32 + 1];",
        "static_assert(sizeof(float) == 4);",
        "float* p = reinterpret_cast<float*>(y);",  # a template's arguments are no comparison
        "const float4* p = (const float4*)x;",  # a cast is no product
        "for (float& number : numbers) ;",
    ],
)
def test_what_has_to_be_constant_or_is_no_operator_is_left(source):
    assert not changes(source)


def test_a_program_with_mutants_keeps_lines_and_has_all_files(tmp_path):
    (tmp_path / "twice.cuh").write_text("#pragma once\n__device__ float twice(float x) {\n    return 2 * x;\n}\n")
    text = '#include "twice.cuh"\n__global__ void k(float* y) {\n    y[0] = twice(\n        y[1]);\n}\n'
    schema = schema_of(text, "k.cu", (tmp_path,), "x86_64")
    assert {(m.file, m.function, m.line) for m in schema.mutants} >= {("twice.cuh", "twice", 3), ("k.cu", "k", 4)}
    code = schema.code
    assert code.count("#include") == 0 and '#line 1 "twice.cuh"' in code
    assert (
        code.endswith('#line 1 "k.cu"' + code.rpartition('#line 1 "k.cu"')[2])
        and '#line 1 "k.cu"\n\n__global__' in code
    )


def run(arguments, monkeypatch, capsys):
    """The exit code and the output of a command."""
    monkeypatch.setattr(sys, "argv", ["minillm", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out + captured.err


def test_the_mutants_of_a_file_of_your_own(tmp_path, monkeypatch, capsys, simulator):
    """The one that survives is no fault: the number is the same in all threads."""
    path = tmp_path / "sums.cu"
    path.write_text(SUM)
    code, text = run(["simulate", str(path), "--mutate", *ARGUMENTS, *EXPECTED], monkeypatch, capsys)
    assert code == 1
    assert "survived           1" in text
    assert "sums.cu:20: constant, the same bits\n    if (threadIdx.x == 0) sums[blockIdx.x] = partial[0];" in text
    for notice in ("the results are wrong", "check mode: a race", "check mode: out of bounds", "it does not end"):
        assert notice in text


def test_a_check_of_half_of_the_results_lets_more_survive(tmp_path, simulator):
    path = tmp_path / "half.cu"
    path.write_text(
        "__global__ void half(float* x, float* y) {\n    x[threadIdx.x] += 2;\n    y[threadIdx.x] *= 3;\n}\n"
    )
    launch = FileRun((1,), (32,), ["float32[32]", "float32[32]"], expect=("y = 3 * y",))
    half = {each.mutant.source for each in mutate_file(path, "", launch).survivors}
    assert half == {"x[threadIdx.x] += 2;"}
    whole = FileRun((1,), (32,), ["float32[32]", "float32[32]"], expect=("y = 3 * y", "x = x + 2"))
    assert not mutate_file(path, "", whole).survivors


def test_a_kernel_that_fails_its_own_check_is_not_changed(tmp_path, simulator):
    path = tmp_path / "wrong.cu"
    path.write_text("__global__ void wrong(float* y) { y[threadIdx.x] = 1; }\n")
    with pytest.raises(UserError, match="wrong itself does not pass its checks .*FAILED at 32"):
        mutate_file(path, "", FileRun((1,), (32,), ["float32[32]"], expect=("y = 2",)))


def test_what_does_not_compile_is_left_out(tmp_path, simulator):
    path = tmp_path / "pointers.cu"
    path.write_text("__global__ void k(float* y) {\n    float* p = y + threadIdx.x;\n    *p = 1;\n}\n")
    report = mutate_file(path, "", FileRun((1,), (32,), ["float32[32]"], expect=("y = 1",)))
    assert report.left_out == 1  # threadIdx.x in the place of y + threadIdx.x
    assert not report.survivors and len(report.outcomes) > 4


def test_what_a_compiler_says_of_all_mutants_at_once_is_no_complaint(tmp_path, simulator):
    """An assignment that one of them drops leaves a variable without a value, of which g++ warns."""
    path = tmp_path / "kernel.cu"  # the name that its warnings have
    lines = "\n" * 40
    path.write_text(f"__global__ void k(float* y) {{{lines}    float a;\n    a = 3;\n    y[threadIdx.x] = a;\n}}\n")
    report = mutate_file(path, "", FileRun((1,), (32,), ["float32[32]"], expect=("y = np.full(32, 3)",)))
    assert report.outcomes and not report.survivors


class TestChildren:
    def test_a_result_an_endless_loop_and_a_crash(self):
        def work(piece):
            if piece == "loop":
                allow(0.05)
                while True:
                    pass
            if piece == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            return [piece]

        found = dict(in_children(["a", "loop", "crash", "b"], work, 2))
        assert found == {"a": ["a"], "b": ["b"], "loop": signal.SIGPROF, "crash": signal.SIGSEGV}

    def test_an_exception_is_not_taken_for_a_result(self):
        def work(piece):
            raise ValueError(piece)

        assert dict(in_children(["a"], work, 1)) == {"a": signal.SIGABRT}

    def test_children_end_with_their_parent(self):
        before = children()
        results = in_children(["a", "sleep"], lambda piece: time.sleep(600 * (piece == "sleep")) or os.getpid(), 2)
        next(results)
        assert len(children()) > len(before)
        results.close()
        assert children() == before

    def test_what_a_child_writes_is_not_seen(self):
        numbers = np.zeros(3)

        def work(piece):
            numbers[:] = piece
            return numbers.tolist()

        assert dict(in_children([1, 2], work, 1)) == {1: [1, 1, 1], 2: [2, 2, 2]}
        assert not numbers.any()


@pytest.mark.parametrize(
    "message, kind",
    [
        ("k.cu:3: k, block (0, 0, 0), thread (1, 0, 0): data race: two threads write shared memory", "race"),
        ("k.cu:3: k: divergent barrier: 31 threads of the block have returned and never reach it", "barrier"),
        ("k.cu:3: k: out-of-bounds read of argument 0 (x), element 32 (it has 32)", "bound"),
        ("k.cu:3: k: misaligned access to address 0x7f", "alignment"),
    ],
)
def test_complaints_have_kinds(message, kind):
    assert kernel_run.kind_of(message) == kind


# ------------------------------------------------------------------------------------------ minillm's kernels


def results():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_that_of_the_results():
    assert PAGE.read_text(encoding="utf-8") == page(results()), "python tests/kernel_mutants.py --page"


@pytest.mark.parametrize("name", sorted(results()["kernels"]))
def test_the_results_are_of_the_sources_as_they_are(name):
    assert results()["kernels"][name]["digest"] == digest(mutants_of(name)), f"python tests/kernel_mutants.py {name}"


def test_every_survivor_has_a_reason_and_every_reason_a_survivor():
    found = list(survivors(results()))
    assert not [(name, str(mutant)) for name, mutant in found if reason(name, mutant) is None]
    unused = [each for each in SURVIVORS if not any(each.fits(*pair) for pair in found)]
    assert not unused


def in_turn(turn, costly=False):
    """A kernel, another one for every commit."""
    names = [name for name in sorted(results()["kernels"]) if (name in COSTLY) == costly and name != TOO_COSTLY]
    return names[(TURN + turn) % len(names)]


def assert_noticed(name, count):
    """Of about `count` mutants of those that were run, none survives that did not survive when the results were written."""
    known = results()

    def chosen(mutants):
        mutants = sample(mutants, known["kernels"][name]["share"])
        step = max(1, len(mutants) // count)
        return mutants[TURN % step :: step]

    report = mutate_case(name, chosen, jobs=1)
    places = {each.mutant.place for each in report.survivors}
    headers = {place for place in places if kernel_mutants.hashed(place) in known["headers"]}
    allowed = {
        place for found in known["kernels"].values() for key in ("survived", "not reached") for place in found[key]
    }
    assert not places - headers - allowed
    assert report.outcomes


def test_a_sample_of_the_mutants_of_one_kernel(simulator):
    assert_noticed(in_turn(0), 40)


@pytest.mark.parametrize("costly, count", [(False, 60), (True, 10)])
def test_more_kernels(costly, count, simulator):
    assert_noticed(in_turn(1, costly), count)


def test_a_kernel_without_a_case_has_mutants():
    assert set(NAMES) >= {"largest", "skinny_matmul"}
    with pytest.raises(UserError, match='no kernel "flush"'):
        mutate_case("flush")


def test_it_is_a_run_of_its_own(monkeypatch, capsys):
    code, text = run(["simulate", "gelu", "--mutate", "--check"], monkeypatch, capsys)
    assert code == 2 and "--mutate is for kernels and runs them in all modes" in text
