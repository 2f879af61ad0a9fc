"""The page of planted faults is the one that the test files give."""

from pathlib import Path

import pytest
from kernel_testing import assert_kernel_fault_is_noticed
from planted_faults import faults, page

from minillm.checks.cases import DROPOUT, LAYER_NORM

DOCUMENT = Path(__file__).parent.parent / "docs" / "planted-faults.md"


def test_the_page_lists_the_faults_of_the_test_files():
    assert DOCUMENT.read_text(encoding="utf-8") == page(), "python tests/planted_faults.py > docs/planted-faults.md"


def test_every_fault_has_a_name_of_its_own():
    names = [(operation, name, "kernel" if by in ("check mode", "the comparison with NumPy") else "layer")
             for operation, name, by, _ in faults()]  # fmt: skip
    assert len(names) == len(set(names)) > 100


@pytest.mark.parametrize("case", [DROPOUT, LAYER_NORM], ids=str)
def test_nothing_is_noticed_without_a_fault(case, monkeypatch, simulator):
    """Headers in place of #include lines, as with a fault, but none: what is noticed is the fault."""
    assert_kernel_fault_is_noticed(case, ("__global__", "__global__", "nothing"), monkeypatch)
