"""A run from a text that is read part by part: its files are those of the same text in memory."""

import threading

import numpy as np
import pytest
from small_runs import MODEL, SETTINGS

from minillm.data import text_files
from minillm.data.encode_files import Reading
from minillm.errors import UserError
from minillm.training import TrainingSettings, start_run
from minillm.training.checkpoint import TRAINING_FOLDER

DOCUMENTS = "<|endoftext|>".join(
    f"The fox, number {number}, jumps\n\nover {number * 7} dogs.\n" for number in range(300)
)
PLAIN = DOCUMENTS.replace("<|endoftext|>", " ")
FILES = ("tokenizer.json", "tokenizer_config.json", f"{TRAINING_FOLDER}/train.npy", f"{TRAINING_FOLDER}/validation.npy")


def files_of(folder):
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that starts a run from a text, in memory or part by part by some workers."""

    def make(name, text, workers=0, reports=None, **settings):
        paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
        for path, part in zip(paths, (text[:5000], text[5000:])):
            path.write_text(part, encoding="utf-8")
        settings = TrainingSettings(**{**SETTINGS, "data": tuple(map(str, paths)), **settings})
        with monkeypatch.context() as patch:
            if workers:
                patch.setattr(text_files, "LARGE", 1000)
                patch.setattr(text_files, "PART", 700)
                # threads that other tests have left waiting do not keep this process from forking
                patch.setattr(threading, "enumerate", lambda: [threading.current_thread()])
            reading = Reading(workers, (lambda *report: reports.append(report)) if reports is not None else print)
            run = start_run(settings, {} if settings.init else MODEL, tmp_path / name, reading=reading)
        run.release()
        return run

    return make


@pytest.mark.parametrize("text", [DOCUMENTS, PLAIN], ids=["documents", "plain"])
@pytest.mark.parametrize(
    "settings", [{"tokenizer": "bpe", "vocab_size": 300}, {"tokenizer": "char"}], ids=["bpe", "char"]
)
def test_the_files_of_the_run_are_the_same(start, tmp_path, text, settings):
    start("memory", text, **settings)
    expected = files_of(tmp_path / "memory")
    for workers in (1, 3):
        run = start(f"parts-{workers}", text, workers, **settings)
        assert files_of(tmp_path / f"parts-{workers}") == expected
    assert run.examples.batch(0, 0)[0].shape == (6, 8)
    if settings["tokenizer"] == "bpe":
        separated = "<|endoftext|>" in text
        assert ("<|endoftext|>" in run.tokenizer.special_tokens) == separated
        ends = int(np.isin(run.examples.tokens["training"], list(run.tokenizer.special_tokens.values())).sum())
        assert (ends > 200) == separated


def test_what_is_done_is_reported(start):
    reports = []
    start("run", DOCUMENTS, 2, reports, tokenizer="bpe", vocab_size=300)
    kinds = list(dict.fromkeys(what for what, _, _ in reports))
    assert kinds == ["looking for documents", "counting", "merging", "encoding"]
    for kind in kinds:
        *_, (_, done, total) = (report for report in reports if report[0] == kind)
        assert done == total
    of_counting = [done for what, done, _ in reports if what == "counting"]
    assert of_counting == sorted(set(of_counting)) and len(of_counting) > 10


def test_a_text_that_is_refused_leaves_no_folder(start, tmp_path):
    start("first", PLAIN, tokenizer="char")
    with pytest.raises(UserError, match=r"b.txt, in the text from byte [\d,]+ on: the model has never seen .*'é'"):
        start("second", PLAIN + "é the fox", 2, init=str(tmp_path / "first"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "first"]
