"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real texts, vocabularies and models; the test is skipped where it is missing."""
    folder = Path(os.environ.get("MINILLM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set MINILLM_TEST_DATA)")
    return folder
