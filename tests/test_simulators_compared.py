"""docs/simulators.md: our column is run anew; what the others show is in a file."""

import json
import re
from pathlib import Path

import pytest
from kernel_testing import needs_compiler

from benchmarks.simulators.faults import FAULTS
from benchmarks.simulators.ours import noticed
from benchmarks.simulators.page import RESULTS, cell, page

DOCUMENT = Path(__file__).parent.parent / "docs" / "simulators.md"
KEPT = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_the_one_that_the_file_gives():
    assert DOCUMENT.read_text(encoding="utf-8") == page(KEPT), "python -m benchmarks.simulators > docs/simulators.md"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_check_mode_notices_what_the_page_says_and_nothing_else(fault):
    needs_compiler()
    found = noticed(fault, True)
    line = re.search(r"faults\.cu:(\d+): ", found)
    assert cell(f"line {line[1]}: " if line else found, "") == cell(KEPT["faults"][fault.name]["ours"][0], "")
    assert noticed(fault, False) == ""


def test_check_mode_reports_no_fault_that_is_not_there_and_most_that_are():
    column = [KEPT["faults"][fault.name]["ours"] for fault in FAULTS]
    assert len(FAULTS) >= 40 and not any(sound for _, sound in column)
    assert sum(bool(faulty) for faulty, _ in column) >= 35
