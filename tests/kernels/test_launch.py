"""What launchers refuse, and what they need: arrays that fit, a GPU that is new enough, headers that are there."""

import numpy as np
import pytest

from minillm.backend.arrays import to_device
from minillm.checks.cases import ATTENTION, KERNELS
from minillm.errors import UserError
from minillm.kernels import OPERATIONS, RUNGS, adamw, dropout, embedding, launch, layer_norm
from minillm.kernels.launch import CudaFile, ResourceLimit


def test_wrong_arguments_are_named():
    x = to_device(np.zeros((4, 512), np.float32), "cudasim")
    weight = to_device(np.zeros(768, np.float32), "cudasim")
    with pytest.raises(ValueError, match=r"layer_norm_forward: weight is \(768,\) but x has 512 channels"):
        layer_norm.layer_norm_forward(x, weight)
    with pytest.raises(TypeError, match="layer_norm_forward: weight is float64, the kernel takes float32"):
        layer_norm.layer_norm_forward(x, weight[:512].astype(np.float64))
    with pytest.raises(ValueError, match=r"layer_norm_forward: x is not C-contiguous .*ascontiguousarray\(x\)"):
        layer_norm.layer_norm_forward(x.T, weight[:4])
    with pytest.raises(ValueError, match="layer_norm_forward: bias lives on cpu|bias lives on"):
        layer_norm.layer_norm_forward(x, weight[:512], np.zeros(512, np.float32))
    with pytest.raises(TypeError, match="layer_norm_forward: weight is a list, not an array"):
        layer_norm.layer_norm_forward(x, [1.0] * 512)
    wide = to_device(np.zeros((1, 7000), np.float32), "cudasim")
    with pytest.raises(
        ValueError, match=r"7000 channels, the kernel takes 1 to 6144: .*use_kernels\(layer_norm=False\)"
    ):
        layer_norm.layer_norm_forward(wide, wide[0])
    with pytest.raises(TypeError, match="embedding_forward: ids is float32, not an array of integers"):
        embedding.embedding_forward(x, x)
    with pytest.raises(ValueError, match=r"adamw_update: gradients\[0\] is \(768,\) but values\[0\] is \(4, 512\)"):
        adamw.adamw_update([x], [weight], [x], [x], 0.1, (0.9, 0.99), 1e-8, [0.0], 1)


def test_launch_refuses_what_a_launcher_must_not_do():
    file = dropout.CUDA
    x = to_device(np.zeros(4, np.float32), "cudasim")
    with pytest.raises(TypeError, match="dropout<float, 4>: argument 1 is a Python float"):
        file.launch("dropout<float, 4>", (1,), (32,), (x, 0.5))
    with pytest.raises(ValueError, match="beyond CUDA's limit"):
        file.launch("dropout<float, 4>", (1, 70000), (32,), (x,))
    with pytest.raises(ValueError, match="beyond CUDA's limit of 1024"):
        file.launch("dropout<float, 4>", (1,), (2048,), (x,))
    with pytest.raises(KeyError, match="declares no instance"):
        file.launch("nothing", (1,), (32,), (x,))
    with pytest.raises(ValueError, match="live on"):
        file.launch("dropout<float, 4>", (1,), (32,), (x, np.zeros(4, np.float32)))


def test_every_operation_with_a_kernel_has_a_case():
    of_generation = {"largest", "skinny_matmul"}  # without a gradient: tests/kernels has a file for each
    assert {case.name for case, _ in KERNELS.values()} == set(OPERATIONS) - of_generation
    assert {kernel.name for kernel in ATTENTION.kernel} == set(RUNGS)


def test_a_gpu_that_is_too_old_is_named():
    launch.check_architecture("a.cu", 80, 80)
    with pytest.raises(UserError, match="a.cu needs a GPU of sm_80 or later, this one is sm_75"):
        launch.check_architecture("a.cu", 75, 80)


def test_a_change_in_a_header_changes_the_code(tmp_path):
    (tmp_path / "f.cu").write_text('#include "f.cuh"\n')
    codes = set()
    for text in ("// one", "// two"):
        (tmp_path / "f.cuh").write_text(text)
        codes.add(CudaFile(str(tmp_path / "f.py"), "f.cu", {}).code)
    assert len(codes) == 2


def test_numbers_that_a_kernel_would_misread_are_refused():
    x = to_device(np.zeros(4, np.float32), "cudasim")
    with pytest.raises(TypeError, match="dropout<float, 4>: argument 1 is a Python float64"):
        dropout.CUDA.launch("dropout<float, 4>", (1,), (32,), (x, np.float64(0.5)))
    swapped = to_device(np.zeros((2, 4), ">f4"), "cudasim")
    with pytest.raises(TypeError, match="layer_norm_forward: x is >f4, the kernel takes float32 or bfloat16"):
        layer_norm.layer_norm_forward(swapped, x)


class CountingModule:
    """A compiled file that notes its look-ups, requests and launches."""

    def __init__(self):
        self.looked_up, self.granted, self.launched = [], [], []

    def get_function(self, kernel):
        self.looked_up.append(kernel)
        return CountingFunction(self)


class CountingFunction:
    def __init__(self, module):
        object.__setattr__(self, "module", module)

    def __setattr__(self, name, value):
        assert name == "max_dynamic_shared_size_bytes"
        self.module.granted.append(value)

    def __call__(self, grid, block, arguments, shared_mem):
        self.module.launched.append(shared_mem)


def test_a_function_is_looked_up_once_and_shared_memory_is_requested_once(monkeypatch):
    limit = ResourceLimit(32, dynamic_shared=90_000)
    file, module = CudaFile(__file__, "f.cu", {"f": limit, "g": limit}), CountingModule()
    monkeypatch.setattr(file, "module", lambda array, kernel: module)
    x = to_device(np.zeros(4, np.float32), "cudasim")
    for kernel, shared in (("f", 0), ("f", 60_000), ("f", 60_000), ("g", 50_000), ("f", 50_000), ("f", 80_000)):
        file.launch(kernel, (1,), (32,), (x,), shared)
    assert module.looked_up == ["f", "g"]
    assert module.granted == [60_000, 50_000, 80_000]
    assert module.launched == [0, 60_000, 60_000, 50_000, 50_000, 80_000]
