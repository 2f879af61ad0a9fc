"""Thousands of damaged files of each format: each opens or is refused with a UserError, in little time and memory."""

import tracemalloc

import numpy as np
import pytest
from model_files import LLAMA, add_byte_pairs, write_gguf, write_llama2c

import minillm
from minillm.errors import UserError
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.tokenizers import load_tokenizer

MUTATIONS = 500


def damaged(data: bytes, rng) -> bytes:
    """The file with bytes changed, cut out, put in twice, or cut off; mostly near its beginning, where headers are."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        at = int(rng.integers(min(len(data), int(rng.choice([64, 512, 4096, len(data)])))))
        kind = rng.integers(5)
        if kind == 0:
            data[at] = rng.integers(256)
        elif kind == 1:
            data[at : at + 8] = rng.integers(256, size=8, dtype=np.uint8).tobytes()
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind == 3:
            data[at:at] = data[at : at + int(rng.integers(1, 64))]
        elif len(data) > 2:
            del data[max(1, at) :]
    return bytes(data)


def files(folder):
    """Format -> (the file that is damaged, what opens it)."""
    model = minillm.Llama(LLAMA, seed=1)
    whole = folder / "whole"
    model.save_pretrained(whole)
    minillm.BytePairTokenizer.train("the quick brown fox " * 9, 300, ["<|end|>"]).save_pretrained(whole)
    (folder / "llama2c").mkdir()
    return {
        "safetensors": (whole / "model.safetensors", lambda path: from_pretrained(path.parent)),
        "config.json": (whole / "config.json", lambda path: from_pretrained(path.parent)),
        "tokenizer.json": (whole / "tokenizer.json", lambda path: load_tokenizer(path.parent)),
        "gguf": (
            write_gguf(folder / "m.gguf", model, change=add_byte_pairs),
            lambda path: (from_pretrained(path), tokenizer_of(path)),
        ),
        "llama2c": (write_llama2c(folder / "llama2c")[0], from_pretrained),
        "tokenizer.bin": (folder / "llama2c" / "tokenizer.bin", lambda path: tokenizer_of(path.with_name("model.bin"))),
    }


@pytest.mark.parametrize("kind", ["safetensors", "config.json", "tokenizer.json", "gguf", "llama2c", "tokenizer.bin"])
def test_damaged_files(kind, tmp_path):
    path, open_file = files(tmp_path)[kind]
    data, rng = path.read_bytes(), np.random.default_rng(len(kind))
    open_file(path)
    refused, largest = 0, 0
    tracemalloc.start()
    for _ in range(MUTATIONS):
        path.write_bytes(damaged(data, rng))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            open_file(path)
        except UserError:
            refused += 1
        largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert refused > MUTATIONS // 20
    whole_folder = sum(each.stat().st_size for each in tmp_path.rglob("*") if each.is_file())
    assert largest < 2 * whole_folder + 20e6
