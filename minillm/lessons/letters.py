"""A text in Shannon's alphabet of 27 letters: a to z, and the space for everything else.

Source: Shannon, "Prediction and Entropy of Printed English" (1951). With so small an alphabet a
small model learns, and overfits, within seconds. Every letter of the validation text occurs in a
short training text. Python's language reference differs a little between versions, and hardly in
this form.
"""

from __future__ import annotations

import re

import numpy as np

from minillm.data import load_text, split_text

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


def letter_ids(text: str) -> np.ndarray:
    """The text as ids of letters (N,), 0 to 26; everything between two words becomes one space.

    >>> letter_ids("Ab, c!").tolist()
    [1, 2, 0, 3, 0]
    """
    text = re.sub("[^a-z]+", " ", text.lower())
    return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) % 32  # "a" is 97 = 3 * 32 + 1, " " is 32


def reference_letters() -> tuple[np.ndarray, np.ndarray]:
    """Python's language reference in letters: about 370,000 for training, about 40,000 for
    validation.
    """
    learned, validated = split_text(load_text(["python-docs"]))
    return letter_ids(learned), letter_ids(validated)
