"""What the tests marked gpu share. CuPy is the real one: on a GPU, or with `pytest --standin` on the stand-in for one."""

from contextlib import contextmanager, nullcontext

from minillm.kernels.standin import attach
from minillm.kernels.standin.recording import MatrixProduct, recorded


def on_the_standin() -> bool:
    """Whether this process has the stand-in in the place of a GPU."""
    return attach.cuda is not None


@contextmanager
def products_asked_for():
    """A function that gives the products asked of cuBLAS since the start of the block.

    On a GPU it gives None: there the numbers alone are seen.
    """
    if not on_the_standin():
        yield lambda: None
        return
    with recorded() as calls:
        yield lambda: [call for call in calls if isinstance(call, MatrixProduct)]


def uncomputed():
    """A context manager in which the stand-in carries nothing out, for work of a size that only a GPU can compute."""
    return recorded(compute=False) if on_the_standin() else nullcontext()
