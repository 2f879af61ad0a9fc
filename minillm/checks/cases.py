"""All cases by name, and the check of their gradients that `minillm gradcheck` runs.

What a case is: case.py.

LAYER_NORM            the case of one operation; so are RMS_NORM, GELU, ...
CASES                 all of them
GRADCHECKED           the names that `minillm gradcheck` takes: a file in layers/ or models/ -> its cases
KERNELS               the names that `minillm simulate` takes -> (case, kernel)
"""

from __future__ import annotations

from collections.abc import Iterator

from minillm.checks.case import KEY, Case, Kernel, Problem, array, at, randomised
from minillm.checks.cases_activations import DROPOUT, GELU, SOFTMAX, SWIGLU
from minillm.checks.cases_attention import ATTENTION, ROTARY, ROTARY_ATTENTION, SELF_ATTENTION
from minillm.checks.cases_linear import BIAS, EMBEDDING, LINEAR, LORA, LORA_LINEAR, MLP, SWIGLU_MLP
from minillm.checks.cases_loss import CROSS_ENTROPY, DPO, LINEAR_CROSS_ENTROPY, SEQUENCE_LOG_PROBABILITY
from minillm.checks.cases_models import DOCUMENTS, FUSED_BLOCK, MODELS, RECOMPUTE, RESIDUAL_BLOCK
from minillm.checks.cases_norms import (
    LAYER_NORM,
    RESIDUAL,
    RESIDUAL_BIAS,
    RESIDUAL_LAYER_NORM,
    RESIDUAL_RMS_NORM,
    RMS_NORM,
)
from minillm.checks.cases_optim import ADAMW, GLOBAL_NORM
from minillm.checks.cases_paths import PATHS
from minillm.checks.cases_preference import PREFERENCE
from minillm.checks.cases_ranks import RANKS
from minillm.checks.gradcheck import GradientError, Report, gradcheck
from minillm.errors import UserError

__all__ = ["CASES", "GRADCHECKED", "KERNELS", "KEY", "LAYERS", "Case", "Kernel", "Problem", "array", "at", "randomised"]
__all__ += ["check_gradients", "problems_of", "report_or_error", "run"]

LAYERS = (
    LINEAR, BIAS, EMBEDDING, LAYER_NORM, RMS_NORM, RESIDUAL_LAYER_NORM, RESIDUAL_RMS_NORM, RESIDUAL_BIAS, ROTARY,
    GELU, SOFTMAX, DROPOUT, ATTENTION, SELF_ATTENTION, ROTARY_ATTENTION, LORA, LORA_LINEAR, MLP, SWIGLU, SWIGLU_MLP,
    RESIDUAL, RESIDUAL_BLOCK, FUSED_BLOCK, RECOMPUTE,
    CROSS_ENTROPY, LINEAR_CROSS_ENTROPY, SEQUENCE_LOG_PROBABILITY, DPO, DOCUMENTS, *RANKS,
)  # fmt: skip
CASES = (*LAYERS, *MODELS, PREFERENCE, *PATHS, ADAMW, GLOBAL_NORM)

GRADCHECKED: dict[str, tuple[Case, ...]] = {}
for _case in CASES:
    if _case.gradcheck:
        _file = _case.home.rpartition(".")[2]
        GRADCHECKED[_file] = (*GRADCHECKED.get(_file, ()), _case)

KERNELS: dict[str, tuple[Case, Kernel]] = {
    kernel.name: (case, kernel)
    for case in sorted(CASES, key=lambda case: (case is ATTENTION, case.name))
    for kernel in case.kernel
}


def run(names: list[str] | None = None, method: str = "differences") -> Iterator[tuple[str, Report | GradientError]]:
    """Check the gradients of the cases of these names, or of all.

    method: of `gradcheck`. Yields (name, report or error) for each problem. Raises UserError for an
    unknown name.
    """
    for name, case, problem in problems_of(names):
        yield name, report_or_error(case, problem, method)


def problems_of(names: list[str] | None = None) -> list[tuple[str, Case, Problem]]:
    """(name, case, problem) of what `minillm gradcheck` checks. Raises UserError for an unknown
    name.
    """
    for name in names or ():
        if name not in GRADCHECKED:
            raise UserError(f'no gradient check is named "{name}": use {", ".join(GRADCHECKED)}')
    return [
        (name, case, problem)
        for name in names or GRADCHECKED
        for case in GRADCHECKED[name]
        for problem in case.gradcheck
    ]


def report_or_error(case: Case, problem: Problem, method: str = "differences") -> Report | GradientError:
    """As `check_gradients`, with the first wrong intermediate; a GradientError is returned."""
    try:
        return check_gradients(case, problem, method=method, intermediates=True)
    except GradientError as error:
        return error


def check_gradients(case: Case, problem: Problem, module=None, **settings) -> Report:
    """`gradcheck` of one problem of a case.

    module: a copy of the case's module to check in its place.

    Raises what gradcheck raises. settings: further arguments of gradcheck.
    """
    subject, inputs, rng_key = case.subject(problem, module)
    label = case.label(problem)
    names = tuple(inputs)
    settings = dict(rng_key=rng_key, name=label, progress=False, input_names=names, intermediates=False) | settings
    if settings.get("method") == "complex":
        settings.setdefault("tolerance", case.slope_error)
    return gradcheck(subject, *inputs.values(), **settings)
