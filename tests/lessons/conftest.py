"""Lessons run here as `minillm lesson` runs them: with one thread for matrix products, which are small."""

import pytest

from minillm.backend.threads import blas_threads


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with blas_threads(1):
        yield


@pytest.fixture
def draw():
    """A function that draws a lesson's picture, as it is drawn into a file, and returns the matplotlib Figure."""
    backend = pytest.importorskip("matplotlib.backends.backend_agg")
    from matplotlib.figure import Figure

    from minillm.lessons.report import SIZE

    def draw(measured):
        figure = Figure(**SIZE)
        canvas = backend.FigureCanvasAgg(figure)
        measured.draw(figure)
        canvas.draw()
        return figure

    return draw
