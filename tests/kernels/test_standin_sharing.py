"""What is compiled for the stand-in: a file of minillm's once, for "cudasim" and for "cuda"."""

import numpy as np
import pytest

from minillm.backend.arrays import to_device
from minillm.kernels import dropout, gelu
from minillm.kernels.simulator import module
from minillm.kernels.standin import sources

pytestmark = pytest.mark.gpu


def test_a_file_is_compiled_once_for_the_simulator_and_the_standin(monkeypatch):
    found = {"cudasim": [], "cuda": []}
    for place, device in ((module, "cudasim"), (sources, "cuda")):
        compiled = place.kernel_library

        def noted(text, *rest, compiled=compiled, device=device):
            path = compiled(text, *rest)
            found[device] += [path] if "#include <cupy/" not in text else []
            return path

        monkeypatch.setattr(place, "kernel_library", noted)
    for launcher in (gelu, dropout):
        # another text: CuPy keeps the modules of those that it has compiled in this process
        monkeypatch.setattr(launcher, "CUDA", launcher.CUDA.with_text(launcher.CUDA.text + "// once for both\n"))
    for device in found:
        x = to_device(np.ones((2, 64), np.float32), device)
        y, saved = gelu.gelu_forward(x)
        gelu.gelu_backward(y, saved)
        dropout.dropout_forward(x, 0.5, (1, 2))
    assert set(found["cuda"]) == set(found["cudasim"]) and len(set(found["cuda"])) == 2
