"""Lessons run here as `minillm lesson` runs them: with one thread for matrix products, which are small."""

import pytest

from minillm import blas


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with blas.threads(1):
        yield
