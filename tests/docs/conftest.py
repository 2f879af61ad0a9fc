"""What the pages take for granted: a model in runs/default-1, texts, a model that can chat."""

import json
import os
import shutil
import sys
from pathlib import Path

import doc_commands
import pytest
from chat_runs import conversations, write_lines
from model_files import GPT2, add_byte_pairs, write_gguf

import minillm
from minillm.checks.exercises import progress
from minillm.data import corpora
from minillm.training import loop

TEXT = "The quick brown fox jumps over the lazy dog, and the value of the expression is what the fox returns.\n"
PAIRS = [{"prompt": f"The {word}", "chosen": " returns.", "rejected": " jumps."} for word in TEXT.split()]
SMALL = "--n-layer 1 --d-model 32 --n-head 2 --context-length 64 --vocab-size 300 --batch-size 8 --warmup-steps 2"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """A reader's folder: runs/default-1 (small, trained for a moment), chat.gguf, texts, and
    conversations.
    """
    folder = tmp_path_factory.mktemp("workshop")
    before = Path.cwd()
    (folder / "my.txt").write_text(TEXT * 60, encoding="utf-8")
    (folder / "stories.txt").write_text("<|endoftext|>".join([TEXT * 20] * 3), encoding="utf-8")
    write_lines(folder / "talks.jsonl", conversations(12))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), encoding="utf-8")
    write_gguf(folder / "chat.gguf", minillm.GPT2(GPT2, seed=1), change=add_byte_pairs)
    command = f"minillm train --max-steps 8 --eval-interval 8 --eval-windows 4 --sample-tokens 0 {SMALL}"
    code, output = doc_commands.execute(command, folder)
    os.chdir(before)
    assert code == 0, output
    return folder


@pytest.fixture
def folder(workshop, tmp_path, monkeypatch, request):
    """A copy of the workshop, in which a page may do what it likes; the working folder."""
    shutil.copytree(workshop, tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    monkeypatch.setenv("COLUMNS", "80")
    if not any(page in request.node.name for page in ("lessons.md", "docs/page.md")):  # claims hold for the real text
        for corpus in list(corpora.CORPORA):  # no network, and less to read
            monkeypatch.setitem(corpora.CORPORA, corpus, lambda: TEXT * 60)
    monkeypatch.setattr(progress, "progress_file", lambda: tmp_path / "exercises.json")  # not the reader's own
    monkeypatch.setattr(loop, "plot_losses", lambda *_: None)  # most of a short run: the workshop's is drawn
    monkeypatch.syspath_prepend(tmp_path / "page")
    yield tmp_path / "page"
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]  # a page's own module: another page may have one of that name
