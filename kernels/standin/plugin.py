"""A plugin of pytest: the tests marked gpu run with the stand-in in the place of the GPU.

    GPU_STANDIN_COMPUTE=1 pytest -p minillm.kernels.standin.plugin -m gpu tests/kernels

GPU_STANDIN_CAPABILITY and GPU_STANDIN_COMPUTE are the options of `python -m
minillm.kernels.standin`, which loads this plugin, as environment variables.
"""

import os

from minillm.kernels.standin.attach import attach, set_capability
from minillm.kernels.standin.computing import carry_out_everything


def pytest_configure(config) -> None:
    attach_as_told()


def attach_as_told() -> None:
    """Attach the stand-in as GPU_STANDIN_CAPABILITY ("8.6") and GPU_STANDIN_COMPUTE say."""
    attach()
    set_capability(os.environ.get("GPU_STANDIN_CAPABILITY", "9.0"))
    if os.environ.get("GPU_STANDIN_COMPUTE"):
        carry_out_everything()
