"""Which tokens may be chosen at all."""

from __future__ import annotations

import numpy as np


def top_k_cut(logits, k: int | None):
    """Keep the k largest logits of each row, exactly k; ties go to the lowest id. The rest becomes -inf.

    logits (B, V) float32  ->  (B, V). A k of None, 0 or >= V cuts nothing. Source: Fan, Lewis, Dauphin, "Hierarchical
    Neural Story Generation" (2018), section 5.1.

    >>> top_k_cut(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), 2)
    array([[-inf,   3.,   2., -inf]], dtype=float32)
    """
    rows, vocabulary = logits.shape
    if not k or k >= vocabulary:
        return logits
    threshold = np.partition(logits, vocabulary - k, axis=-1)[:, vocabulary - k, None]  # the k-th largest
    above = logits > threshold
    tied = logits == threshold
    room = k - above.sum(axis=-1, keepdims=True)  # how many of those equal to the threshold are kept
    kept = above | (tied & (np.cumsum(tied, axis=-1) <= room))
    return np.where(kept, logits, np.float32(-np.inf))
