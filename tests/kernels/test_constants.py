"""A number that a .cu file and its launcher share is written once: a constant of the CudaFile, passed as -D."""

import importlib
import re

import pytest
from kernel_testing import with_headers

from minillm.kernels import nvrtc

FILES = nvrtc.cuda_files()


@pytest.mark.parametrize("name", FILES)
def test_a_shared_number_is_written_once(name):
    launcher = importlib.import_module("minillm.kernels." + name.removesuffix(".cu").replace("/", "."))
    numbers = {key for key, value in vars(launcher).items() if key.isupper() and isinstance(value, int)}
    for file in FILES[name]:
        text = with_headers(file)
        defined = set(re.findall(r"(?:const int|#define) (\w+)(?: =)? \d", text))
        assert not defined & (numbers | set(file.constants)), f"{name} defines a number of its launcher"
        assert all(re.search(rf"\b{key}\b", text) for key in file.constants), f"{name} does not use a constant"
