"""Which kernel a layer gets: by where the array lives, its dtype, and what use_kernels said."""

import subprocess
import sys

import numpy as np
import pytest

from minillm.backend import to_device
from minillm.errors import UserError
from minillm.kernels import OPERATIONS, twin, use_kernels
from minillm.precision import bfloat16


@pytest.fixture(autouse=True)
def all_kernels_afterwards():
    yield
    use_kernels(True)


def array(dtype="float32", device="cudasim"):
    return to_device(np.zeros(3, dtype), device)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_simulated_array_gets_the_launcher(operation):
    assert twin(operation, array()).__name__ == f"minillm.kernels.{operation}"


def test_no_launcher_for_host_memory_or_another_dtype():
    assert twin("gelu", array(device="cpu")) is None
    assert twin("gelu", array("float64")) is None


def test_bfloat16_gets_a_launcher_where_vectors_travel():
    for operation, dtypes in OPERATIONS.items():
        found = twin(operation, to_device(np.zeros(3, np.float32).astype(bfloat16()), "cudasim"))
        assert (found is not None) == ("bfloat16" in dtypes), operation
    assert twin("layer_norm", to_device(np.zeros(3, bfloat16()), "cpu")) is None


def test_kernels_are_turned_off_and_on():
    use_kernels(False)
    assert twin("gelu", array()) is None
    use_kernels(False, gelu=True)
    assert twin("gelu", array()) is not None and twin("dropout", array()) is None
    use_kernels({"gelu": False})
    assert twin("gelu", array()) is None and twin("dropout", array()) is not None
    use_kernels()
    assert twin("gelu", array()) is not None


def test_a_choice_that_does_not_exist_changes_nothing():
    use_kernels(False)
    with pytest.raises(UserError, match='no kernel for "gelus": there are adamw, attention'):
        use_kernels(gelus=True)
    with pytest.raises(UserError, match="gelu='flash': use True or False$"):
        use_kernels(gelu="flash")
    assert twin("gelu", array()) is None


def test_importing_the_package_imports_no_launcher():
    program = "import sys, minillm.kernels; assert not [m for m in sys.modules if m.startswith('minillm.kernels.')]"
    subprocess.run([sys.executable, "-c", program], check=True)
