"""The page of planted faults is the one that the test files give."""

from pathlib import Path

from planted_faults import faults, page

DOCUMENT = Path(__file__).parent.parent / "docs" / "planted-faults.md"


def test_the_page_lists_the_faults_of_the_test_files():
    assert DOCUMENT.read_text(encoding="utf-8") == page(), "python tests/planted_faults.py > docs/planted-faults.md"


def test_every_fault_has_a_name_of_its_own():
    names = [(operation, name, "kernel" if by in ("check mode", "the comparison with NumPy") else "layer")
             for operation, name, by in faults()]  # fmt: skip
    assert len(names) == len(set(names)) > 100
