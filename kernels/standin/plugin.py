"""A plugin of pytest: the tests marked gpu run with the stand-in in the place of the GPU.

    GPU_STANDIN_COMPUTE=1 pytest -p minillm.kernels.standin.plugin -m gpu tests/kernels

GPU_STANDIN_CAPABILITY and GPU_STANDIN_COMPUTE are the options of `python -m
minillm.kernels.standin`, which loads this plugin, as environment variables.
"""

from minillm.kernels.standin.environment import attach_as_told


def pytest_configure(config) -> None:
    attach_as_told()
