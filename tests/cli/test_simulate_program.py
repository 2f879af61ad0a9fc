"""minillm simulate script.py: a CuPy program runs as Python would run it, and its kernels are checked."""

import signal
import subprocess
import sys

import pytest
from cupy_programs import needs_cupy, simulate

FAULTS = '''\
import numpy as np
import cupy as cp

scale = cp.RawKernel(
    r"""
extern "C" __global__ void scale(const float* x, float* y, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = a * x[i];
}
""",
    "scale",
)
row_sum = cp.RawKernel(
    r"""
extern "C" __global__ void row_sum(const float* x, float* y) {
    __shared__ float part[64];
    part[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x < 32) part[threadIdx.x] += part[threadIdx.x + 32];
    if (threadIdx.x == 0) y[0] = part[0] + part[1];
}
""",
    "row_sum",
)
x = cp.ones(1000, cp.float32)
y = cp.zeros_like(x)
scale((4,), (256,), (x, y, np.float32(2), 1000))
print(float(y.sum()))
scale((4,), (256,), (x[:500], y[100:600], np.float32(1), 500))
scale((4,), (256,), (x, y, 2.0, 999))
scale((4,), (256,), (x.astype(cp.float64), y, np.float32(2), 999))
row_sum((1,), (64,), (x, y))
difference = cp.ElementwiseKernel(
    "raw float32 x",
    "float32 y",
    """
    y = x[i] - x[i + 1];
    """,
    "difference",
)
difference(x, size=1000)
addresses = cp.asarray(np.array([x.data.ptr, y.data.ptr], np.uint64))
through = cp.RawKernel(
    r"""
extern "C" __global__ void through(float** table, int n) {
    if (threadIdx.x < n) table[1][threadIdx.x] = table[0][threadIdx.x] + 1;
}
""",
    "through",
)
through((1,), (128,), (addresses, np.int32(100)))
print(float(y[:100].sum()))
'''
PROGRAM = '''\
import os
import sys

import cupy as cp

print(sys.argv, __name__, __file__, os.getcwd(), sys.stdin.read())
y = cp.zeros(4, cp.int32)
CODE = {
    "no C++": r"""
extern "C" __global__ void f(int* y) {
    asm("mov.u32 %0, %laneid;" : "=r"(y[0]));
}
""",
    "no CUDA": 'extern "C" __global__ void f(int* y) { y[0] = nothing; }',
    "no name": 'extern "C" __global__ void g(int* y) { }',
    "arguments": 'extern "C" __global__ void f(int* y, int n) { y[0] = n; }',
    "beyond": 'extern "C" __global__ void f(int* y) { y[1 << 28] = 3; }',
}
for what, code in CODE.items():
    try:
        cp.RawKernel(code, "f")((1,), (1,), (y,))
    except Exception as error:
        print(what, "|", type(error).__name__, "|", *str(error).splitlines()[:1])
try:
    cp.RawKernel(CODE["arguments"], "f", backend="nvcc")((1,), (1,), (y, 3))
except Exception as error:
    print("nvcc |", type(error).__name__, "|", error)
try:
    cp.RawModule(path="kernel.cubin").get_function("f")
except Exception as error:
    print("path |", type(error).__name__, "|", error)


def inner():
    raise ValueError("of the script")


inner()
'''


@pytest.fixture(autouse=True)
def cupy():
    needs_cupy()


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "faults.py").write_text(FAULTS)
    return simulate("faults.py", "--check", cwd=folder), folder


@pytest.mark.parametrize(
    "finding, line",
    [
        ("scale, block (3, 0, 0), thread (232, 0, 0): out-of-bounds read of argument 0 (x), element 1000 (it has 1000)",
         "    if (i <= n) y[i] = a * x[i];"),
        ("scale, block (3, 0, 0), thread (232, 0, 0): out-of-bounds write of argument 1 (y), element 1000 (it has 1000)",
         "    if (i <= n) y[i] = a * x[i];"),
        ("scale: argument 2 (a) is a scalar float64, the kernel takes float32: pass numpy.float32(...)",
         "extern \"C\" __global__ void scale("),
        ("scale: argument 0 (x) is an array of float64, the kernel takes float32*", "extern \"C\" __global__ void scale("),
        ("row_sum, block (0, 0, 0), thread (0, 0, 0): uninitialised read of shared memory",
         "    if (threadIdx.x < 32) part[threadIdx.x] +="),
        ("row_sum, block (0, 0, 0), thread (32, 0, 0): data race", "    part[threadIdx.x] = x[threadIdx.x];"),
        ("difference, block (7, 0, 0), thread (103, 0, 0): out-of-bounds read of argument 0 (x), element 1000 (it has 1000)",
         "    y = x[i] - x[i + 1];"),
    ],
)  # fmt: skip
def test_check_mode_names_a_fault_and_the_line_of_the_script(finding, line, faults):
    done, _ = faults
    number = 1 + next(i for i, row in enumerate(FAULTS.splitlines()) if row.startswith(line))
    assert f"faults.py:{number}: {finding}" in done.stderr, done.stderr


def test_check_mode_leaves_the_output_alone_and_ends_with_1(faults):
    done, folder = faults
    assert done.returncode == 1 and done.stdout == "2000.0\n200.0\n"
    assert done.stderr.splitlines()[-1].endswith(" findings") and "through" not in done.stderr
    plain = simulate("faults.py", cwd=folder)
    assert (plain.returncode, plain.stderr) == (0, "")


def test_profile_mode_shows_the_lines_of_the_script(faults):
    _, folder = faults
    done = simulate("faults.py", "--profile", cwd=folder)
    assert done.returncode == 0 and "row_sum (faults.py)" in done.stderr and "sectors, ideal" in done.stderr
    assert "cupy_" not in done.stderr  # CuPy's own kernels are not looked at


def test_a_program_is_run_as_python_runs_it(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = simulate("program.py", "1", "--check", cwd=tmp_path, text="words")
    first, *told = done.stdout.splitlines()
    assert first == f"['program.py', '1', '--check'] __main__ program.py {tmp_path} words"
    rows = dict(row.split(" | ", 1) for row in told)
    assert rows["no C++"].startswith("CUDADriverError | cudaErrorNotSupported: program.py:11: Inline PTX")
    assert rows["no CUDA"].startswith("CompileException") and 'identifier "nothing" is undefined' in rows["no CUDA"]
    assert "program.py:17: f, block (0, 0, 0), thread (0, 0, 0): access to address" in rows["beyond"]
    assert "named symbol not found" in rows["no name"]
    assert rows["arguments"].endswith("f: 1 arguments given, the kernel takes 2")
    assert rows["path"].endswith(
        "kernel.cubin: machine code cannot be run without a GPU: give cupy.RawModule its source (code=)"
    )
    assert rows["nvcc"].startswith("CompileException | backend='nvcc' needs NVIDIA's compiler")
    assert done.returncode == 1
    trace = done.stderr[done.stderr.index("Traceback") :].splitlines()
    line = 1 + PROGRAM.splitlines().index("inner()")
    assert trace[1] == f'  File "program.py", line {line}, in <module>' and trace[-1] == "ValueError: of the script"
    assert "minillm" not in done.stderr and "runpy" not in done.stderr


def test_exit_codes_and_modules(tmp_path):
    (tmp_path / "ends.py").write_text("import sys, cupy\nprint(sys.argv)\nsys.exit(int(sys.argv[1]))\n")
    assert simulate("ends.py", "3", cwd=tmp_path).returncode == 3
    done = simulate("-m", "ends", "0", "--profile", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"['{tmp_path}/ends.py', '0', '--profile']\n")


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["nothing.py"], "minillm: nothing.py does not exist"),
        (["folder.py"], "minillm: folder.py cannot be read: Is a directory"),
        (
            ["talk.ipynb"],
            "minillm: talk.ipynb is a notebook: save it as a script first, "
            "with jupyter nbconvert --to script talk.ipynb",
        ),
        (["-m"], "minillm: -m takes the name of a module"),
        (["script.py", "--check", "--profile"], "minillm: --check and --profile are two different runs: choose one"),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments, told, tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "script.py").write_text("")
    done = simulate(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, told, "")


def test_a_syntax_error_is_shown_as_python_shows_it(tmp_path):
    (tmp_path / "wrong.py").write_text("x = (\n")
    done = simulate("wrong.py", cwd=tmp_path)
    assert (
        done.returncode == 1 and done.stderr.startswith('  File "wrong.py", line 1') and "never closed" in done.stderr
    )


def test_ctrl_c_ends_a_kernel(tmp_path):
    (tmp_path / "long.py").write_text(
        "import cupy as cp\n"
        "CODE = 'extern \"C\" __global__ void f(volatile int* y) { while (y[0] < 2000000000) y[0] += 1; }'\n"
        'kernel = cp.RawKernel(CODE, "f")\n'
        'y = cp.zeros(1, cp.int32)\nprint("ready", flush=True)\nkernel((1,), (1,), (y,))\nprint("after")\n'
    )
    command = [sys.executable, "-m", "minillm", "simulate", "long.py"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        output, told = running.communicate(timeout=60)
    assert running.returncode == 130 and output == "" and told.strip().endswith("minillm: stopped")


def test_ctrl_c_within_a_kernel_is_not_lost(tmp_path):
    (tmp_path / "within.py").write_text(
        "import ctypes, os, signal, threading\nimport cupy as cp\n"
        "CODE = 'extern \"C\" __global__ void f(volatile int* y) { while (y[0] < 2000000000) y[0] += 1; }'\n"
        'kernel = cp.RawKernel(CODE, "f")\ny = cp.zeros(1, cp.int32)\n'
        "number = ctypes.c_int.from_address(y.data.ptr)\n"
        "def stop():\n    while not number.value: pass\n    os.kill(os.getpid(), signal.SIGINT)\n"
        'threading.Thread(target=stop, daemon=True).start()\nkernel((1,), (1,), (y,))\nprint("after")\n'
    )
    done = simulate("within.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "minillm: stopped")
