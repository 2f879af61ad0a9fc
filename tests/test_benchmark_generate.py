"""benchmarks.generate on a tiny model: all cases and writers give rows, and a portion replaces its own rows alone."""

import ctypes
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import minillm
from benchmarks import generate, tables
from minillm.generation.decoder import Decoder

pytestmark = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
VOCABULARY = 40


def model():
    return minillm.GPT2(
        minillm.GPT2Config(VOCABULARY, 24, n_layer=1, n_head=2, d_model=16, tie_embeddings=True), seed=0
    )


class Llama:
    """What the benchmark uses of llama_cpp.Llama: numbers of ours behind its names."""

    def __init__(self, path, n_ctx, verbose, n_threads, n_threads_batch):
        self.ctx, self.decoder, self.model = self, None, minillm.from_pretrained(path)
        assert n_ctx <= self.model.config.context_length

    def reset(self):
        self.decoder = Decoder(self.model)

    def eval(self, ids):
        self.logits = self.decoder.read(np.array([ids]))[0].astype(np.float32)

    def n_vocab(self):
        return VOCABULARY


def llama_get_logits_ith(ctx, row):
    assert row == -1
    return ctx.logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


@pytest.fixture
def bench(monkeypatch, tmp_path):
    pytest.importorskip("gguf")
    monkeypatch.setattr(generate, "random_model", lambda name: model())
    monkeypatch.setattr(generate, "VOCABULARY", {"gpt2": VOCABULARY})
    monkeypatch.setattr(generate, "Bandwidth", lambda: lambda: 1e9)
    monkeypatch.setattr(generate, "time_to_first_token", lambda program, folder: 0.5)
    monkeypatch.setattr(generate, "FIRST_TOKEN_CASE", (1, 9))
    monkeypatch.setattr(generate.common, "RESULTS", tmp_path)
    monkeypatch.setitem(
        sys.modules, "llama_cpp", SimpleNamespace(Llama=Llama, llama_get_logits_ith=llama_get_logits_ith)
    )

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["generate", "--tokens", "3", "--rounds", "1", "--write", *arguments])
        generate.main()
        return json.loads((tmp_path / "generate.json").read_text())

    return run


@pytest.mark.peers
def test_rows_of_all_cases_and_writers(bench, capsys):
    pytest.importorskip("transformers")
    written = bench("--cases", "1x9", "8x9", "1x4096")
    who = [(row["texts"], row["writer"]) for row in written["cases"]]
    assert who == [(1, "minillm"), (1, "transformers"), (1, "llama.cpp"), (8, "minillm"), (8, "transformers")]
    assert "gpt2 1x4096: no, its context is 24 tokens" in capsys.readouterr().out
    assert written["models"]["gpt2"]["minillm"]["seconds_to_first_token"] == 0.5
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.generate(written)[2:]]
    assert [row[:3] for row in cells] == [
        ["GPT-2 124M", "1 x 9", "minillm"],
        ["", "", "transformers"],
        ["", "", "llama.cpp"],
        ["GPT-2 124M", "8 x 9", "minillm"],
        ["", "", "transformers"],
    ]
    assert [row[6] for row in cells] == [
        "0.50 s",
        "0.50 s",
        "",
        "",
        "",
    ]  # llama.cpp's time to the first token is not measured


def test_a_portion_replaces_its_own_rows_alone(bench):
    first = bench("--cases", "1x9", "8x9", "--without-peers")
    second = bench("--cases", "8x9", "--without-peers")
    assert first["cases"][0] == second["cases"][0] and first["models"] == second["models"]
    assert len(second["cases"]) == 2 and first["cases"][1] != second["cases"][1]
    assert second["cases"][1]["weight_megabytes"] * 1e6 == generate.bytes_read_for_a_token(model())


@pytest.mark.peers
def test_all_writers_write_the_same(bench, tmp_path):
    pytest.importorskip("transformers")
    from benchmarks.writers import contestants

    ours = model()
    ours.save_pretrained(tmp_path / "model")
    texts = {}
    for who, writer in contestants(minillm.from_pretrained(tmp_path / "model"), tmp_path / "model", 1, 24).items():
        for prompt in (np.array([[7, 7, 7]]), np.array([[1, 2, 3, 4, 5]])):  # the first is forgotten
            tokens = [writer.read(prompt)]
            tokens += [writer.step(tokens[-1])]
            tokens += [writer.step(tokens[-1])]
        texts[who] = [int(np.asarray(token).reshape(-1)[0]) for token in tokens]
    assert texts["transformers"] == texts["llama.cpp"] == texts["minillm"] and len(texts) == 3
