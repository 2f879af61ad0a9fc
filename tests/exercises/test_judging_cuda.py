"""Mistakes that a reader makes in a .cu file end in a line that says what, and where."""

from __future__ import annotations

import pytest

from minillm.checks.exercises import cuda_judge
from minillm.checks.exercises.judging import judge
from minillm.checks.exercises.printing import MOST_LINES
from minillm.errors import UserError
from minillm.kernels.exercises.registry import exercise

SOLUTION = """__global__ void vector_add(const float* x, const float* y, float* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}
"""
BODY = "    if (i < n) z[i] = x[i] + y[i];"

pytestmark = pytest.mark.usefixtures("simulator")


@pytest.fixture
def judged(tmp_path):
    def judge_text(text, seed=5):
        (tmp_path / "add.cu").write_text(text, encoding="utf-8")
        verdict = judge(exercise("vector_add"), tmp_path / "add.cu", seed)
        verdict.problem = verdict.problem.replace(str(tmp_path / "add.cu"), "add.cu")
        return verdict

    return judge_text


# what becomes of the solution: (the part replaced, by what, what is said)
MISTAKES = {
    "a loop that does not end": (BODY, "    while (i < n) z[i] = x[i] + y[i];", "add.cu:3: *still runs"),
    "a semicolon": ("threadIdx.x;", "threadIdx.x", "add.cu:3: expected ',' or ';'"),
    "a name": ("x[i]", "X[i]", "add.cu:3: X is not declared"),
    "a brace": ("}\n", "\n", "add.cu:1: this { is never closed"),
    "the kernel's name": (
        "vector_add",
        "add",
        "add.cu has no kernel vector_add: it has add\n  wanted: __global__ void vec",
    ),
    "no kernel": ("__global__ ", "", "add.cu has no kernel vector_add: it has none"),
    "a parameter left out": (", int n", "", "add.cu:1: the kernel takes other arguments: vector_add(const float* x, "),
    "another order": ("float* z, int n", "int n, float* z", "add.cu:1: the kernel takes other arguments"),
    "another type": ("int n", "long n", "add.cu:1: the kernel takes other arguments"),
    "a template": ("__global__", "template <int N>\n__global__", "add.cu:1: vector_add is a template"),
    "dynamic shared memory": (
        BODY,
        "    extern __shared__ float t[];\n" + BODY,
        "add.cu:3: the launch gives no dynamic sh",
    ),
    "a wild pointer": ("x[i] +", "x[i * 99999999] +", "add.cu:3: *out-of-bounds read of argument 0 (x)"),
    "a null pointer": ("z[i] =", "((float*)nullptr)[i] =", "add.cu:3: *address 0x0"),
    "division by zero": ("x[i] +", "i / (n - n) +", "add.cu:3: *integer division by zero"),
    "nothing written": (BODY, "", "add.cu:1: z[0] is nan, *no thread has written it, nor any other element"),
    "half written": ("i < n", "i < n / 2", "add.cu:3: z[256] is nan, *this line writes other elements"),
    "wrong numbers": ("+ y[i]", "- y[i]", "add.cu:3: z[0] is *written here by block (0, 0, 0), thread (0, 0, 0)"),
    "a barrier for some": (BODY, BODY + "\n    if (i == 3) __syncthreads();", "add.cu:4: *divergent barrier"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_line(judged, name, monkeypatch):
    monkeypatch.setattr(cuda_judge, "SECONDS", 0.3)
    old, new, words = MISTAKES[name]
    assert old in SOLUTION
    verdict = judged(SOLUTION.replace(old, new, 1))
    first, *rest = words.split("*")
    assert verdict.problem.startswith(first) and all(part in verdict.problem for part in rest), verdict.problem
    assert verdict.stars == 0 and "wrong:" in verdict.text()


def test_an_input_that_is_changed(judged):
    text = SOLUTION.replace("const float* x", "float* x").replace("z[i] = x[i] + y[i];", "z[i] = x[i]++ + y[i];")
    assert judged(text).problem.startswith("add.cu:3: x is not an output, and is changed: x[0] is ")


def test_the_launch_that_is_counted_has_to_be_right_too(judged):
    text = "__device__ int launches;\n" + SOLUTION.replace(
        BODY,
        "    if (i == 0) atomicAdd(&launches, 1);\n    if (n == 4099 && atomicAdd(&launches, 0) > 5) return;\n" + BODY,
    )
    problem = judged(text).problem
    assert problem.startswith("add.cu:2: z[0] is nan, ") and problem.endswith(", in the launch that is counted")


def test_other_functions_and_what_it_prints(judged):
    text = "__device__ float add(float a, float b) { return a + b; }\n__global__ void other(int* q) { *q = 1; }\n"
    text += SOLUTION.replace(BODY, BODY + '\n    printf("%d\\n", i);').replace("x[i] + y[i]", "add(x[i], y[i])")
    verdict = judged(text + "int main() { vector_add<<<1, 1>>>(0, 0, 0, 0); }\n")
    assert verdict.solved
    assert verdict.printed[:2] == ["0", "1"] and len(verdict.printed) == MOST_LINES + 1
    assert "it printed, at the first size:\n    0\n" in verdict.text() and "... (" in verdict.printed[-1]


def test_a_seed_repeats_the_sizes_and_another_one_changes_them(judged):
    assert judged(SOLUTION, 5).right == judged(SOLUTION, 5).right != judged(SOLUTION, 6).right


def test_files_that_cannot_be_judged(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        judge(exercise("vector_add"), tmp_path / "none.cu", 1)
    (tmp_path / "add.py").write_text("")
    with pytest.raises(UserError, match="is written in a .cu file"):
        judge(exercise("vector_add"), tmp_path / "add.py", 1)
