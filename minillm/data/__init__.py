"""Texts, token files and batches."""

from minillm.data.batches import random_windows, sequential_windows
from minillm.data.corpora import CORPORA, load_text, split_text
from minillm.data.special import encode_data, encode_prompt, end_of_text
from minillm.data.token_file import open_tokens, write_tokens

__all__ = [
    "CORPORA",
    "encode_data",
    "encode_prompt",
    "end_of_text",
    "load_text",
    "open_tokens",
    "random_windows",
    "sequential_windows",
    "split_text",
    "write_tokens",
]
