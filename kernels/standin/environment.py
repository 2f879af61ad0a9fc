"""The stand-in as variables of the environment ask for it, which workers of pytest inherit."""

from __future__ import annotations

import os

from minillm.kernels.standin.attach import attach, set_capability
from minillm.kernels.standin.computing import carry_out_everything


def attach_as_told() -> None:
    """Attach the stand-in as GPU_STANDIN_CAPABILITY ("8.6") and GPU_STANDIN_COMPUTE say."""
    attach()
    set_capability(os.environ.get("GPU_STANDIN_CAPABILITY", "9.0"))
    if os.environ.get("GPU_STANDIN_COMPUTE"):
        carry_out_everything()
