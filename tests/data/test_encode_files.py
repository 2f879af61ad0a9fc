"""Large texts in parts, by several processes: the token file of the whole text, to the byte."""

import os
import random
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from children import children
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import planted

from minillm import BytePairTokenizer
from minillm.backend import forked
from minillm.backend.forked import in_order
from minillm.data import encode_data, encode_files, load_text, split_text, text_files, token_file, write_tokens
from minillm.data.encode_files import Reading
from minillm.data.text_files import Span, TextFiles, large_files
from minillm.data.token_file import write_token_parts
from minillm.errors import UserError
from minillm.tokenizers import CharacterTokenizer
from minillm.tokenizers.post_processors import Around
from minillm.tokenizers.safe_cuts import SafeCuts, safe_cuts

WORDS = "the cat's sat 12 東京。 Grüße mat\n \n\n hat, don't\r\n <|end|> two words".split(" ")
TOKENIZER = BytePairTokenizer.train("the cat sat on the mat " * 20, 290, ["<|end|>", "two words"])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Threads that other tests have left waiting do not keep this process from forking."""
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.current_thread()])


def text_of(seed, count=3000):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def written(tmp_path, text, tokenizer=TOKENIZER, workers=1, special="allow", module=encode_files, part=500):
    """The token file of a text that is read in parts of about `part` bytes."""
    (tmp_path / "text.txt").write_bytes(text.encode())
    files = TextFiles([tmp_path / "text.txt"])
    files.parts = lambda span, cuts, read=files.parts: read(span, cuts, part)
    out, span = tmp_path / "ids.npy", Span(0, files.size)
    count = module.encode_files(out, files, span, tokenizer, safe_cuts(tokenizer), special, Reading(workers))
    assert count == len(np.load(out))
    return out.read_bytes()


def whole(tmp_path, text, tokenizer=TOKENIZER, special="allow"):
    """The token file of a text that is read at once."""
    write_tokens(tmp_path / "whole.npy", encode_data(tokenizer, text, special))
    return (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("special", ["allow", "text"])
def test_the_file_is_that_of_the_whole_text(tmp_path, workers, special):
    text = text_of(0)
    assert written(tmp_path, text, workers=workers, special=special) == whole(tmp_path, text, special=special)


@given(
    text=st.lists(st.sampled_from([*WORDS, " ", "x" * 40]), min_size=1, max_size=60).map(" ".join),
    part=st.integers(1, 90),
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_length_of_the_parts(tmp_path_factory, text, part):
    folder = tmp_path_factory.getbasetemp()
    assert written(folder, text, part=part) == whole(folder, text)


def test_other_tokenizers(tmp_path):
    text = text_of(1)
    characters = CharacterTokenizer.train(text)
    assert written(tmp_path, text, characters, 2, "") == whole(tmp_path, text, characters, "")
    own = BytePairTokenizer.train(text, 300, pattern=r"\S+|\s+")
    assert safe_cuts(own) is None, "read at once"
    assert written(tmp_path, text, own, 2, "") == whole(tmp_path, text, own, "")
    bos = BytePairTokenizer.train(text, 290)
    bos._parts = bos._parts._replace(around=Around([7], [8, 9]))
    assert written(tmp_path, text, bos, 2, "") == whole(tmp_path, text, bos, "")
    assert np.load(tmp_path / "ids.npy")[[0, -2, -1]].tolist() == [7, 8, 9]


def test_ids_of_a_large_vocabulary_are_narrow_where_they_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(token_file, "BLOCK", 3)
    for ids in ([], [1, 2, 65535, 0, 5, 6, 7], [1, 65536, 3]):
        write_tokens(tmp_path / "one.npy", ids)
        parts = [np.array(ids[:2], np.uint32), np.array(ids[2:], np.uint32)]
        assert write_token_parts(tmp_path / "other.npy", parts, 100_000) == len(ids)
        assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "other.npy").read_bytes()


def test_a_text_without_a_place_to_cut(tmp_path):
    text = "abc" * 2000
    assert written(tmp_path, text, workers=2) == whole(tmp_path, text)
    text = "abc" * 2000 + " and " + "東京" * 2000 + "\nx"
    assert written(tmp_path, text, workers=2) == whole(tmp_path, text)


@pytest.mark.parametrize("window", [8, 64])
def test_parts_are_cut_where_the_rule_allows(tmp_path, monkeypatch, window):
    monkeypatch.setattr(text_files, "WINDOW", window)
    monkeypatch.setattr(text_files, "PART", 100)
    text = text_of(2, 300) + "y" * 700 + text_of(3, 50)
    (tmp_path / "text.txt").write_bytes(text.encode())
    files = TextFiles([tmp_path / "text.txt"])
    spans = list(files.parts(Span(0, files.size), SafeCuts(["two words"]), 100))
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])] and spans[-1].end == files.size
    data, lengths = text.encode(), [span.end - span.start for span in spans]
    for span in spans[:-1]:
        assert data[span.end - 1 : span.end + 1].decode("utf-8", "ignore").strip(), "not in a run of white space"
        assert b"two words" not in data[span.end - 8 : span.end + 8]
    assert max(lengths) < 1000 and np.median(lengths) > 80


AGAIN = "waiting.append(worker)\n                break"
FAULTS = {
    "the parts in another order": (AGAIN, AGAIN.replace("append", "appendleft")),
    "the last parts are lost": ("while waiting:", "while len(waiting) > 1:"),
    "a part is lost": ("yield result\n", "yield result; next(tasks, None)\n"),
}


@pytest.mark.parametrize("right, wrong", FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_caught(tmp_path, right, wrong, monkeypatch):
    text = text_of(4)
    assert written(tmp_path, text, workers=3) == whole(tmp_path, text)
    monkeypatch.setattr(encode_files, "in_order", planted(forked, right, wrong).in_order)
    assert written(tmp_path, text, workers=3) != whole(tmp_path, text)


def test_a_cut_inside_of_a_word_or_a_token_is_caught(tmp_path, monkeypatch):
    class Anywhere(SafeCuts):
        def last(self, text):
            return len(text) // 2

    text = text_of(5)
    monkeypatch.setattr(sys.modules[__name__], "safe_cuts", lambda tokenizer: Anywhere())
    assert written(tmp_path, text) != whole(tmp_path, text)


@given(
    st.lists(st.sampled_from(["é", "東", "a", "<|endoftext|>", " ", "\U0001f600"]), min_size=2, max_size=30).map(
        "".join
    )
)
@settings(max_examples=100, deadline=None)
def test_a_text_is_split_as_in_memory(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    for name, part in (("a.txt", "\ufeff" + text[: len(text) // 2]), ("b.txt", text[len(text) // 2 :])):
        (folder / name).write_text(part, encoding="utf-8", newline="")
    paths = [folder / "a.txt", folder / "b.txt"]
    if not text[: len(text) // 2]:
        return
    files = TextFiles(paths)
    assert load_text([str(path) for path in paths]) == text == files.text(Span(0, files.size))
    assert tuple(map(files.text, files.split)) == split_text(text)


def test_only_large_files_are_read_in_parts(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("a" * 100)
    name = str(tmp_path / "text.txt")
    monkeypatch.setattr(text_files, "LARGE", 100)
    assert large_files([name]) is None and large_files([name, name]).size == 200
    monkeypatch.setattr(text_files, "LARGE", -1)
    assert large_files(["python-docs"]) is None
    assert Reading().workers_for(10) == 1 and Reading(3).workers_for(10) == 3
    assert Reading().workers_for(encode_files.LARGE + 1) == len(os.sched_getaffinity(0))


# ------------------------------------------------------------------------------------------------------------- errors


def test_what_is_wrong_in_a_part_is_said_with_its_place(tmp_path):
    text = "one two " * 500
    with pytest.raises(
        UserError, match=r"text.txt, in the text from byte [\d,]+ on: .*'<\|end\|>', at \d+: --special allow"
    ):
        written(tmp_path, text + "<|end|>", workers=2, special="refuse")
    assert not (tmp_path / "ids.npy").exists() and len(list(tmp_path.iterdir())) == 1, "nothing is left"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    (tmp_path / "b.txt").write_bytes(b"de\xff")
    files = TextFiles([tmp_path / "a.txt", tmp_path / "b.txt"])
    with pytest.raises(UserError, match="b.txt is not valid UTF-8: byte 0xff at offset 2"):
        files.text(Span(0, files.size))
    for name, message in (("none.txt", "neither a file nor"), (".", "is a folder"), ("empty.txt", "is empty")):
        (tmp_path / "empty.txt").touch()
        with pytest.raises(UserError, match=message):
            TextFiles([tmp_path / name])
    (tmp_path / "b.txt").write_bytes(b"d")
    with pytest.raises(UserError, match="b.txt has become shorter"):
        files.text(Span(0, files.size))


def test_a_worker_that_dies_is_named_in_one_line():
    def killed(task):
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    found, before = [], children()
    with pytest.raises(UserError, match="a process that was counting was killed by SIGKILL, .*: use fewer --workers"):
        for result in in_order(killed, range(9), 2, "counting"):
            found.append(result)
    assert found == [0, 1, 2]
    with pytest.raises(UserError, match="ended with exit code 7"):
        list(in_order(lambda task: os._exit(7), range(9), 2, "counting"))
    assert children() == before  # no worker is left


def test_no_worker_is_left_where_results_are_not_wanted_any_more():
    before = children()
    results = in_order(lambda task: task, range(9), 2, "counting")
    assert next(results) == 0
    assert len(children()) == len(before) + 2
    results.close()
    assert children() == before


def test_memory_does_not_grow_with_the_text(tmp_path):
    """The peak of a process that encodes 22 MB in parts of half a megabyte is that of 3 MB."""
    peaks = []
    program = (
        "import re, resource, sys; from pathlib import Path; from minillm.data import text_files\n"
        "from minillm.data.encode_files import Reading, encode_files; from minillm import BytePairTokenizer\n"
        "from minillm.tokenizers.safe_cuts import safe_cuts\n"
        "text_files.PART = 1 << 19; files = text_files.TextFiles([sys.argv[1]])\n"
        "tokenizer = BytePairTokenizer.train('the cat sat on the mat ' * 20, 280)\n"
        "parts = files.parts; files.parts = lambda span, cuts: parts(span, cuts, 1 << 19)\n"
        "span = text_files.Span(0, files.size)\n"
        "encode_files('ids.npy', files, span, tokenizer, safe_cuts(tokenizer), '', Reading(int(sys.argv[2])))\n"
        "own = int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
    )
    for copies in (1, 8):
        (tmp_path / "text.txt").write_text(text_of(6, 500_000) * copies, encoding="utf-8", newline="")
        command = [sys.executable, "-c", program, "text.txt", "2"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        peaks.append(int(ended.stdout) / 1024)
    size = (tmp_path / "text.txt").stat().st_size / 2**20
    assert size > 20 and peaks[1] - peaks[0] < 8, f"{peaks} MiB"


def test_beside_another_thread_this_process_does_it_all(monkeypatch):
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.current_thread(), threading.Thread(name="reader")])
    assert "a fork would lose: reader" in forked.why_no_workers()
    assert set(in_order(lambda task: os.getpid(), range(3), 2, "counting")) == {os.getpid()}
