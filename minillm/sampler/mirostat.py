"""Mirostat: a cut that is adjusted after every token to keep the surprise of the text at a target.

Source: Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity"
(ICLR 2021); version 2 is that of the authors' repository. With the surprise of a token, s_i = -log2
p_i, in bits:

    keep the tokens with s_i <= mu, always the likeliest; renormalise; draw one, with surprise s
    mu = mu - eta (s - tau)                     mu begins at 2 tau

After a token that was more surprising than tau the next cut is stricter, after a less surprising
one it is looser. s is computed from the renormalised probabilities, as in llama.cpp.
"""

from __future__ import annotations

import numpy as np

from minillm.sampler.cuts import ROUNDING
from minillm.sampler.probability import shifted_exp


def mirostat_cut(logits, mu):
    """Keep the tokens with a surprise of at most mu, and the likeliest. logits (B, V), mu (B,) in
    bits  ->  (B, V)

    >>> mirostat_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), np.array([2.0])).round(2)
    array([[ -inf, -0.92, -1.2 ,  -inf]], dtype=float32)
    """
    kept = np.empty(logits.shape, bool)
    for row, bits, keep in zip(logits, mu, kept):
        _, w = shifted_exp(row)
        # -log2 p_i <= mu means p_i >= 2^-mu; a negative mu keeps none of these
        np.greater_equal(w, w.sum() * np.exp2(-np.float64(max(bits, 0))) * (1 - ROUNDING), out=keep)
        keep[row.argmax()] = True
    return np.where(kept, logits, np.float32(-np.inf))


def mirostat_update(mu, p, tau: float, eta: float):
    """The next mu after drawing tokens with the probabilities p. mu and p (B,)  ->  (B,)

    >>> mirostat_update(np.array([6.0]), np.array([0.25]), tau=3.0, eta=0.1)
    array([6.1])
    """
    with np.errstate(over="ignore"):
        return np.clip(mu - eta * (-np.log2(p) - tau), -LARGEST_MU, LARGEST_MU)


LARGEST_MU = 1e6  # bits, more than the surprise of any float; keeps mu finite for very large eta
