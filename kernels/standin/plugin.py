"""A plugin of pytest: the tests marked gpu run with the stand-in in the place of the GPU.

    PYTHONPATH=path/to/gpu pytest -p minillm.kernels.standin.plugin -m gpu tests/kernels

GPU_STANDIN_CAPABILITY and GPU_STANDIN_COMPUTE are run.py's options, as environment variables.
"""

from minillm.kernels.standin.attach import attach_as_told


def pytest_configure(config) -> None:
    attach_as_told()
