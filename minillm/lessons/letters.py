"""A text in Shannon's alphabet of 27 letters: a to z, and the space for everything else.

Source: Shannon, "Prediction and Entropy of Printed English" (1951). So small an alphabet makes a small model learn, and
overfit, within seconds; no letter of the validation text is missing in a short training text, and Python's language
reference, which differs a little from one version to the next, hardly differs in this form.
"""

from __future__ import annotations

import re

import numpy as np

from minillm.data import load_text, split_text

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


def letter_ids(text: str) -> np.ndarray:
    """The text as numbers of letters (N,), 0 to 26; whatever lies between two words is one space.

    >>> letter_ids("Ab, c!").tolist()
    [1, 2, 0, 3, 0]
    """
    text = re.sub("[^a-z]+", " ", text.lower())
    return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) % 32  # "a" is 97 = 3 * 32 + 1, " " is 32


def reference_letters() -> tuple[np.ndarray, np.ndarray]:
    """Python's language reference in letters: to learn from (about 370,000), and to validate on (about 40,000)."""
    learned, validated = split_text(load_text(["python-docs"]))
    return letter_ids(learned), letter_ids(validated)
