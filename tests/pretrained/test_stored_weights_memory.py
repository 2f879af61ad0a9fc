"""A model whose weights stay as its file holds them takes no more memory than the file, a block, and the cache."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from model_files import TOKENIZER, write_gguf

import minillm
from minillm.layers import stored_product
from minillm.pretrained import from_pretrained
from minillm.pretrained.export import export

SMALL = minillm.LlamaConfig(
    vocab_size=4096, context_length=32, n_layer=2, n_head=4, d_model=256, d_ff=1024, tie_embeddings=True
)
LARGER = minillm.LlamaConfig(vocab_size=8192, context_length=64, n_layer=4, n_head=8, d_model=512, d_ff=1536)
KINDS = ("f16", "Q8_0", "Q4_0")
BLOCK = 4 * stored_product.BLOCK  # bytes, of one thread
OTHER = 4_000_000  # bytes: logits, what NumPy and Python keep


def write(folder, config, kind):
    """-> the path of a file or folder, the bytes that it takes, and those of float32"""
    model = minillm.Llama(config, seed=1)
    expanded = sum(p.value.nbytes for p in set(model.parameters().values()))
    if kind == "f16":
        model.save_pretrained(folder / "f32")
        export(folder / "f32", path := folder / "half", kind, TOKENIZER, shard_size="4MB")
        return path, sum(each.stat().st_size for each in path.glob("*.safetensors")), expanded
    gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")
    path = write_gguf(folder / "m.gguf", model, gguf.GGMLQuantizationType[kind])
    return path, path.stat().st_size, expanded


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_allocated(kind, tmp_path):
    """Of 16 bits the block alone, since the mapped file is no allocation; of fewer the arranged bytes too."""
    path, size, expanded = write(tmp_path, SMALL, kind)
    peaks = {}
    for weights in ("stored", "expanded"):
        from_pretrained(path, weights=weights)  # what is imported and kept for good is not counted
        tracemalloc.start()
        opened = from_pretrained(path, weights=weights)
        for _ in minillm.generate(opened, np.arange(20)[None], 4, sampler=minillm.Sampler(temperature=0)):
            pass
        peaks[weights] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    arranged = 0 if kind == "f16" else size
    assert peaks["stored"] < arranged + BLOCK + 1_500_000, (peaks, expanded)
    assert peaks["expanded"] > expanded  # the same count sees what is expanded


IN_A_PROCESS = """
import json, sys
import numpy as np
import minillm

def status(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

def write_on(path, weights):
    model = minillm.from_pretrained(path, weights=weights)
    for _ in minillm.generate(model, np.arange(40)[None], 8, sampler=minillm.Sampler(temperature=0)):
        pass

warm, path, weights = sys.argv[1:]
write_on(warm, weights)  # what is imported, and the memory that OpenBLAS takes once
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
write_on(path, weights)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from /proc of Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_resident(kind, tmp_path):
    """The high-water mark of a process of its own that opens a model and writes, pages of the mapped file included."""
    (tmp_path / "warm").mkdir()
    warm, _, _ = write(tmp_path / "warm", SMALL, kind)
    path, size, expanded = write(tmp_path, LARGER, kind)
    found = {}
    for weights in ("stored", "expanded"):
        command = [sys.executable, "-c", IN_A_PROCESS, str(warm), str(path), weights]
        found[weights] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    cache = 2 * 4 * LARGER.n_layer * LARGER.context_length * LARGER.d_model
    assert found["stored"] < size + BLOCK + cache + OTHER, (found, size)
    assert found["expanded"] > expanded + cache, (found, expanded)  # the same count sees what is expanded
