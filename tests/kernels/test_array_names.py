"""The name of the array whose bound an index has left."""

import pytest

from minillm.kernels.simulator.array_names import with_array_name

SOURCE = """
__global__ void f(const float* x, float* y) {
    __shared__ float part[128], tile[32][33];
    int local[4];
    part[threadIdx.x] = x[threadIdx.x];
    y[0] = tile[threadIdx.x][33];
    y[1] = part[0] + tile[0][40];
}
"""


@pytest.mark.parametrize(
    "kind, line, expected",
    [
        ("float [128]", "    part[threadIdx.x] = x[threadIdx.x];", "part, which has 128 elements"),
        ("float [33]", "    y[0] = tile[threadIdx.x][33];", "tile, which has 33 elements"),
        ("float [32][33]", "    y[0] = tile[40][0];", "tile, which has 32 elements"),
        ("float [33]", "    y[1] = part[0] + tile[0][40];", "the array 'float [33]'"),  # one of two: not named
        ("float [128]", "", "the array 'float [128]'"),
    ],
)
def test_the_array_is_named_where_the_line_has_only_one(kind, line, expected):
    text = f"index 200 is beyond the bound of the array '{kind}'"
    assert with_array_name(text, line, SOURCE) == f"index 200 is beyond the bound of {expected}"
