"""What the cases of kernels do not try, kernel by kernel: results that NumPy's functions refuse to
compute, arguments that another layer passes, second turns of threads, and kernels without a case.
"""

from __future__ import annotations

from collections.abc import Callable

from minillm.checks.cases_activations import GELU, SWIGLU
from minillm.checks.cases_linear import BIAS
from minillm.checks.cases_norms import LAYER_NORM, RESIDUAL_BIAS, RESIDUAL_LAYER_NORM, RESIDUAL_RMS_NORM, RMS_NORM
from minillm.checks.mutation.kernel_trial import Trial
from minillm.checks.mutation.kernel_trials_decode import decoded
from minillm.checks.mutation.kernel_trials_generation import largest_ids, products
from minillm.checks.mutation.kernel_trials_layers import cross_entropies, unknown_ids, with_dsum, with_few_blocks
from minillm.checks.mutation.kernel_trials_optim import adamw_steps, clipped_norms
from minillm.kernels import columns, layer_norm, rms_norm, swiglu, vectors
from minillm.layers import layer_norm as layer_norm_layer
from minillm.layers import rms_norm as rms_norm_layer


def trials_of(kernel: str) -> list[Trial]:
    """The trials of a kernel; none for one whose case has all."""
    return TRIALS.get(kernel, list)()


def _of_norm(name: str, case, kernel, layer) -> list[Trial]:
    return [*with_dsum(name, kernel, layer), *_of_rows(case)]


def _of_rows(case) -> list[Trial]:
    return with_few_blocks(case, vectors, "BLOCKS_OF_SUMS")


TRIALS: dict[str, Callable[[], list[Trial]]] = {
    "adamw": adamw_steps,
    "bias": lambda: with_few_blocks(BIAS, columns),
    "cross_entropy": cross_entropies,
    "decode": decoded,
    "embedding": unknown_ids,
    "gelu": lambda: with_few_blocks(GELU, columns),
    "global_norm": clipped_norms,
    "largest": largest_ids,
    "layer_norm": lambda: _of_norm("layer_norm", LAYER_NORM, layer_norm, layer_norm_layer),
    "residual_bias": lambda: with_few_blocks(RESIDUAL_BIAS, columns),
    "residual_layer_norm": lambda: _of_rows(RESIDUAL_LAYER_NORM),
    "residual_rms_norm": lambda: _of_rows(RESIDUAL_RMS_NORM),
    "rms_norm": lambda: _of_norm("rms_norm", RMS_NORM, rms_norm, rms_norm_layer),
    "skinny_matmul": products,
    "swiglu": lambda: with_few_blocks(SWIGLU, swiglu),
}
# Kernels that have no case -> the module of their launcher.
WITHOUT_A_CASE = {
    "decode": "minillm.kernels.attention.decode",
    "largest": "minillm.kernels.largest",
    "skinny_matmul": "minillm.kernels.skinny_matmul",
}
