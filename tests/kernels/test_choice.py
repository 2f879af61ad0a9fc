"""Which kernel a layer gets: by where the array lives, its dtype, and what use_kernels said."""

import subprocess
import sys

import numpy as np
import pytest

from minillm.backend.arrays import to_device
from minillm.backend.precision import bfloat16
from minillm.errors import UserError
from minillm.kernels import OPERATIONS, kernel_for, use_kernels


def array(dtype="float32", device="cudasim"):
    return to_device(np.zeros(3, dtype), device)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_simulated_array_gets_the_launcher(operation):
    assert kernel_for(operation, array()).__name__ == f"minillm.kernels.{operation}"


def test_an_attention_kernel_is_compiled_without_its_other_widths(monkeypatch):
    from minillm.kernels import simulator
    from minillm.kernels.attention import flash

    compiled, file = [], flash.CUDA.with_text(flash.CUDA.text)

    def module(code, options, name_expressions):
        compiled.append(name_expressions)
        return simulator_module(code=code, options=options, name_expressions=name_expressions)

    simulator_module = simulator.RawModule
    monkeypatch.setattr(simulator, "RawModule", module)
    for kernel in ("flash_forward<64, 64>", "flash_forward<32, 64>", "flash_forward<64, 64>"):
        file.module(array(), kernel)
    assert compiled == [("flash_forward<64, 64>",), ("flash_forward<32, 64>",)]


def test_no_launcher_for_host_memory_or_another_dtype():
    assert kernel_for("gelu", array(device="cpu")) is None
    assert kernel_for("gelu", array("float64")) is None


def test_bfloat16_gets_a_launcher_where_vectors_travel():
    for operation, dtypes in OPERATIONS.items():
        found = kernel_for(operation, to_device(np.zeros(3, np.float32).astype(bfloat16()), "cudasim"))
        assert (found is not None) == ("bfloat16" in dtypes), operation
    assert kernel_for("layer_norm", to_device(np.zeros(3, bfloat16()), "cpu")) is None


def test_kernels_are_turned_off_and_on():
    use_kernels(False)
    assert kernel_for("gelu", array()) is None
    use_kernels(False, gelu=True)
    assert kernel_for("gelu", array()) is not None and kernel_for("dropout", array()) is None
    use_kernels({"gelu": False})
    assert kernel_for("gelu", array()) is None and kernel_for("dropout", array()) is not None
    use_kernels()
    assert kernel_for("gelu", array()) is not None


def test_a_choice_that_does_not_exist_changes_nothing():
    use_kernels(False)
    with pytest.raises(UserError, match='no kernel for "gelus": there are adamw, attention'):
        use_kernels(gelus=True)
    with pytest.raises(UserError, match="gelu='flash': use True or False$"):
        use_kernels(gelu="flash")
    assert kernel_for("gelu", array()) is None


def test_importing_the_package_imports_no_launcher():
    program = "import sys, minillm.kernels; assert not [m for m in sys.modules if m.startswith('minillm.kernels.')]"
    subprocess.run([sys.executable, "-c", program], check=True)
