"""Files as authors have them: encodings, host parts, kernels of every form, and reports that name the file's line."""

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.simulator import (
    CompileError,
    RawModule,
    SimulatorError,
    compiler_available,
    configured,
    toolchain,
)
from minillm.kernels.simulator.complaints import kernel_name_error
from minillm.kernels.simulator.host_code import without_host_code
from minillm.kernels.simulator.source import kernels, masked

needs_compiler = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler (apt install g++)")

ONE = 'extern "C" __global__ void one(float* y) {  // größer\n    y[threadIdx.x] = 1.0f; \\\n\n}'
PROGRAM = r"""#include <cstdio>
#include <vector>
#include <cuda_runtime.h>
#include "helper_cuda.h"
#include <thrust/device_vector.h>
#include "own.cuh"
#define CHECK(call) do { cudaError_t e = (call); if (e != cudaSuccess) { printf("%s {", cudaGetErrorString(e)); } } while (0)
#define N 64
/* __global__ void commented(int* x) { */
__constant__ float weights[2] = {1, 2};
cudaStream_t stream;
thrust::device_vector<int> kept;
static int rows[] = {1, 2};
float helper(float x) { return x * weights[1]; }
void fill(std::vector<float>& v) { for (auto& x : v) x = '}'; }
__host__ __device__ float both(float x) { return helper(x) + 1; }
class Timer {
    cudaEvent_t start;
  public:
    Timer() { cudaEventCreate(&start); }
    float scale() const { return 2.0f; }
};
namespace deep { namespace er {
template <typename T, int K = 2> __global__ void __launch_bounds__(N) scale(const T* x, T* y, int n) {
    int i = threadIdx.x;
    if (i < n) y[i] = both(x[i]) * K;
}
} }
__global__ void plain(float* y);
__global__ void plain(float* y) { y[threadIdx.x] = both(1.0f); }
__global__ void twice(float* y) { y[threadIdx.x] *= 2; }
__global__ void twice(int* y) { y[threadIdx.x] *= 2; }
#if 0
__global__ void gone(float* y) { }
#endif
cudaError_t launch(float* y) {
    plain<<<1, N>>>(y);
    return cudaGetLastError();
}
int main(int argc, char** argv) {
    std::vector<float> host(N);
    fill(host);
    CHECK(launch(nullptr));
    const char* text = "} // {";
    return 0;
}
"""


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + ONE.encode(),
        ONE.encode("latin-1"),
        ONE.encode("utf-16"),
        ONE.replace("\n", "\r\n").encode(),
    ],
    ids=["bom", "latin-1", "utf-16", "crlf"],
)
@needs_compiler
def test_encodings(tmp_path, data):
    (tmp_path / "one.cu").write_bytes(data)
    y = np.zeros(4, np.float32)
    RawModule(path=tmp_path / "one.cu").get_function("one")((1,), (4,), (y,))
    assert (y == 1).all()


def test_the_kernels_of_a_program_are_found():
    found = kernels(PROGRAM)
    assert [each.example for each in found] == ["deep::er::scale<float>", "plain", "twice", "twice"]
    assert str(found[0]) == "template <typename T, int K = 2> deep::er::scale(const T* x, T* y, int n)"
    assert [each.line for each in found] == [24, 30, 31, 32]


def test_what_belongs_to_the_host_is_left_out_and_lines_stay():
    text, left_out = without_host_code(PROGRAM)
    assert left_out == ["fill", "Timer", "launch", "main"]
    assert text.count("\n") == PROGRAM.count("\n") and len(text) == len(PROGRAM)
    assert "helper(float x)" in text and "weights[2]" in text and "rows[]" in text and "scale() const" in text
    assert "cudaStream_t" not in text and "device_vector<int>" not in text and "<<<" not in text
    assert without_host_code(ONE) == (ONE, [])


def test_a_mask_hides_comments_literals_and_directives():
    source = 'a // {\\\n}\nb = "{\\""; c = \'{\'; d = 1\'000; /* } \n */ e = R"x({)")x"; \n#define f { \\\n }\ng'
    plain = masked(source)
    assert len(plain) == len(source) and plain.count("\n") == source.count("\n")
    assert not set("{}") & set(plain) and all(name in plain for name in "abcdeg") and "1'000" in plain


@needs_compiler
@pytest.mark.parametrize("name, value", [("deep::er::scale<float>", 6), ("plain", 3), ("twice(float*)", 0)])
def test_a_whole_program_runs(tmp_path, name, value):
    (tmp_path / "own.cuh").write_text("#pragma once\n#include <cuda_runtime.h>\n")
    path = tmp_path / "program.cu"
    path.write_text(PROGRAM)
    module = RawModule(path=path, name_expressions=("deep::er::scale<float>", "plain", "twice(float*)"))
    y, x = np.zeros(4, np.float32), np.ones(4, np.float32)
    module.get_function(name)((1,), (4,), (x, y, np.int32(4)) if "scale" in name else (y,))
    assert (y == value).all()


@pytest.mark.parametrize(
    "name, message",
    [
        ("plian", 'p.cu has no kernel plian: did you mean "plain"\\?'),
        ("deep::er::scale", 'scale is a template: name the instance, such as "deep::er::scale<float>"'),
        ("scale<float>", 'scale is in a namespace: name it "deep::er::scale<float>"'),
        ("plain<float>", 'plain is no template: name it "plain"'),
        ("twice", r'there are 2 kernels twice: name one by its parameters, "twice\(float\*\)" or "twice\(int\*\)"'),
        ("xyz", "p.cu has no kernel xyz: it has deep::er::scale<float>, plain"),
    ],
)
def test_a_kernel_that_is_not_there(name, message):
    import re

    assert re.search(message, kernel_name_error(name, "p.cu", kernels(PROGRAM)))
    assert kernel_name_error("plain", "p.cu", kernels(PROGRAM)) is None


@needs_compiler
@pytest.mark.parametrize(
    "declared", ["__global__ void", 'extern "C" __global__ void', "template <class T> __global__ void"]
)
@pytest.mark.parametrize("file", ["add (1).cu", 'größe "b".cu'])
def test_reports_and_profiles_name_the_line_of_every_kind_of_kernel(tmp_path, declared, file):
    path = tmp_path / file
    path.write_text(f"// one\n{declared} k(float* y) {{\n    y[threadIdx.x] += 1.0f;\n}}\n")
    name = "k<float>" if "template" in declared else "k"
    kernel = RawModule(path=path, name_expressions=(name,)).get_function(name)
    with pytest.raises(SimulatorError) as caught, configured(mode="check"):
        kernel((1,), (5,), (np.zeros(4, np.float32),))
    assert all(text.startswith(f"{path}:3: ") for text in caught.value.findings)
    with configured(mode="profile") as profile:
        kernel((1,), (4,), (np.zeros(4, np.float32),))
    assert {(line.file, line.number) for line in profile.lines} == {(str(path), 3)}
    assert "y[threadIdx.x] += 1.0f;" in profile.annotated()


@needs_compiler
def test_line_directives_are_followed(tmp_path):
    path = tmp_path / "made.cu"
    path.write_text('#line 40 "origin.cu"\n__global__ void k(float* y) {\n    y[threadIdx.x] = 1.0f\n}\n')
    with pytest.raises(CompileError, match="origin.cu:41: expected ';'"):
        RawModule(path=path, name_expressions=("k",)).library("run")


def test_a_cache_that_cannot_be_written_is_reported(monkeypatch):
    monkeypatch.setenv("MINILLM_CACHE", "/proc/nowhere")
    with pytest.raises(UserError, match="/proc/nowhere.*name a folder in MINILLM_CACHE"):
        toolchain.cache_folder()


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="CXX names the compiler 'no-such-compiler'"):
        raise toolchain.CompilerMissing
