"""The sampler: from a model's logits to the token that is written."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np

from minillm.backend import stream, to_host
from minillm.errors import UserError
from minillm.sampler.choice import greedy, multinomial
from minillm.sampler.cuts import (
    epsilon_cut,
    eta_cut,
    min_p_cut,
    top_k_cut,
    top_n_sigma_cut,
    top_p_cut,
    typical_cut,
)

CUTS = {  # setting -> what it does, in the order in which they follow each other
    "top_k": top_k_cut,
    "top_p": top_p_cut,
    "min_p": min_p_cut,
    "typical_p": typical_cut,
    "epsilon_cutoff": epsilon_cut,
    "eta_cutoff": eta_cut,
    "top_n_sigma": top_n_sigma_cut,
}


class InvalidLogits(ValueError):
    """Logits from which no token can be chosen: NaN, +inf, or a row of only -inf."""


class Sampler:
    """Chooses tokens: logits divided by the temperature, cut, turned into probabilities, one drawn.

    temperature: below 1 sharpens, above 1 flattens, 0 is greedy (the largest logit, lowest id). top_k: keep exactly so many
    tokens, ties to the lowest id; None, 0 or at least V keeps all. top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff,
    top_n_sigma: the other cuts, defined in cuts.py; None is off. They follow each other in the order of `CUTS`, each on what
    the one before has left, renormalised. seed: each call of `sample` draws the numbers of its own
    step, one for each row, from the stream (seed, "sample", step, row), so the same seed writes the same text.

    Raises UserError for settings that make no sense.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        *,
        top_p: float | None = None,
        min_p: float | None = None,
        typical_p: float | None = None,
        epsilon_cutoff: float | None = None,
        eta_cutoff: float | None = None,
        top_n_sigma: float | None = None,
    ):
        if not isinstance(temperature, Real) or not math.isfinite(temperature) or temperature < 0:
            raise UserError(f"temperature is {temperature}: it must be a finite number of at least 0 (0 is greedy)")
        if top_k is not None and (not isinstance(top_k, Integral) or isinstance(top_k, bool) or top_k < 0):
            raise UserError(f"top_k is {top_k}: it must be a whole number of at least 0 (0 or None turns it off)")
        _check_share("top_p", top_p, least_is_off=False)
        _check_share("typical_p", typical_p, least_is_off=False)
        _check_share("min_p", min_p)
        _check_share("epsilon_cutoff", epsilon_cutoff)
        _check_share("eta_cutoff", eta_cutoff)
        if top_n_sigma is not None and not (_is_number(top_n_sigma) and top_n_sigma >= 0):
            raise UserError(
                f"top_n_sigma is {top_n_sigma}: it must be a finite number of at least 0 (0 or None turns it off)"
            )
        self.temperature, self.top_k, self.seed = float(temperature), top_k, seed
        self.top_p, self.min_p, self.typical_p = top_p, min_p, typical_p
        self.epsilon_cutoff, self.eta_cutoff, self.top_n_sigma = epsilon_cutoff, eta_cutoff, top_n_sigma
        self.step = 0

    def probabilities(self, logits) -> np.ndarray:
        """logits (B, V)  ->  the probabilities that tokens are drawn with (B, V), float32. The logits are not changed."""
        logits = _checked(logits)
        if self.temperature == 0:
            p = np.zeros_like(logits)
            p[np.arange(len(logits)), greedy(logits)] = 1
            return p
        # (l - max) / T: differences first, so that a tiny temperature gives -inf and not inf - inf
        with np.errstate(over="ignore"):
            scaled = (logits - logits.max(axis=-1, keepdims=True)) / np.float64(self.temperature)
        kept = scaled.astype(np.float32)
        for setting, cut in CUTS.items():
            kept = cut(kept, getattr(self, setting))
        p = np.exp(kept - kept.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)

    def sample(self, logits) -> np.ndarray:
        """logits (B, V)  ->  one id for each row (B,)"""
        logits = _checked(logits)
        step, self.step = self.step, self.step + 1
        if self.temperature == 0:
            return greedy(logits)
        uniform = np.array([stream(self.seed, "sample", step, row).uniform() for row in range(len(logits))])
        return multinomial(self.probabilities(logits), uniform)


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_share(name: str, value, least_is_off: bool = True) -> None:
    """Raises UserError unless a setting is None or a share of 1: from 0 on where 0 is off, above 0 where it would cut all."""
    if value is None or (_is_number(value) and 0 <= value <= 1 and (least_is_off or value > 0)):
        return
    allowed = "from 0 (off) to 1" if least_is_off else "above 0 and at most 1 (1 or None turns it off)"
    raise UserError(f"{name} is {value}: it must be a number {allowed}")


def _checked(logits) -> np.ndarray:
    """A float32 copy in host memory. Raises InvalidLogits naming the row, ValueError for a wrong shape."""
    logits = np.array(to_host(logits), dtype=np.float32)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits have shape {logits.shape}, expected (B, V)")
    wrong = np.isnan(logits) | (logits == np.inf)
    if wrong.any():
        row, token = np.argwhere(wrong)[0]
        raise InvalidLogits(
            f"logits[{row}, {token}] is {logits[row, token]}: the model's weights or its input are broken"
        )
    empty = (logits == -np.inf).all(axis=-1)
    if empty.any():
        raise InvalidLogits(
            f"row {np.argmax(empty)} of the logits is -inf everywhere: there is no token left to choose"
        )
    return logits
