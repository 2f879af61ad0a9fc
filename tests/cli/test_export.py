"""minillm export: runs and adapters as files and folders, and what is said about them."""

import pytest
from chat_runs import CHARACTERS, save_base

from minillm.pretrained.plain_template import plain_chat
from minillm.tokenizers import BytePairTokenizer

pytest.importorskip("gguf", reason="GGUF files need the package gguf")
SMALL = (
    "--n-layer 1 --n-head 2 --d-model 32 --context-length 16 --max-steps 3 --eval-interval 3 --eval-windows 2".split()
)
WRITE = ("--prompt", "the", "--max-tokens", 6, "--temperature", 0)


@pytest.mark.parametrize("tokenizer", [("--tokenizer", "char"), ("--vocab-size", 280)])
def test_a_run_writes_the_same_text_from_everything_it_is_exported_to(tokenizer, minillm, train):
    run = train(*SMALL, *tokenizer)
    text = minillm("generate", run, *WRITE).stdout
    done = minillm("export", run, "m.gguf")
    assert done.stdout == "" and done.stderr.startswith("wrote m.gguf: 0.") and done.stderr.endswith(" MB\n")
    done = minillm("export", run, "m", "--shard-size", "10KB")
    assert done.stderr.startswith("wrote m: 0.") and " files\n" in done.stderr
    minillm("export", "m.gguf", "again", "--type", "f32")
    for model in ("m.gguf", "m", "again"):
        assert minillm("generate", model, *WRITE).stdout == text


def test_notes_are_said(minillm, train):
    run = train(*SMALL, "--preset", "mistral-small", "--sliding-window", 4)
    notes = minillm("export", run, "m.gguf", "--type", "q8_0").stderr.splitlines()
    assert notes[0].startswith("note: llama.cpp knows no sliding window") and notes[-1].startswith("wrote m.gguf")


@pytest.mark.parametrize("characters", [True, False])
def test_it_says_where_an_answer_ends_if_no_token_ends_it(characters, minillm, tmp_path):
    tokenizer = CHARACTERS if characters else BytePairTokenizer.train("say red ", 260, ["<|endoftext|>"])
    save_base(tmp_path / "base", tokenizer=tokenizer)
    (tmp_path / "base" / "chat_template.jinja").write_text(plain_chat(tokenizer).template)
    for place in ("m.gguf", "m"):
        notes = minillm("export", "base", place).stderr.splitlines()[:-1]
        said = r"note: no token ends an answer of this model: tell other programs to stop at the text '\n\n', as minillm does"
        assert (said in notes) == characters


def test_one_line_names_the_place_and_the_cure(minillm, train, tmp_path):
    run = train(*SMALL)
    for arguments, message in [
        (("m.bin",), "m.bin: minillm does not write .bin files: end the name in .gguf, or name a folder"),
        (("m", "--type", "q8_0"), 'm: the type "q8_0" is not one of f32, f16, bf16: only a GGUF file can be q8_0'),
        (("m", "--shard-size", "big"), 'the size of a shard is "big": write it as 5GB, 500MB or 1GiB'),
        (("m", "--adapter"), f"{run} is no adapter: leave out --adapter to export the whole model"),
        ((run,), f"{run} is the model itself: name another folder"),
        (("text.txt",), "text.txt: minillm does not write .txt files: end the name in .gguf, or name a folder"),
    ]:
        assert minillm("export", run, *arguments, expect=2).stderr == f"minillm: {message}\n"
    assert "is not a folder: name a run folder" in minillm("export", "none", "m.gguf", expect=2).stderr
    assert "q4_k" in minillm("export", run, "m.gguf", "--type", "q4_k", expect=2).stderr
    minillm("export", run, "m.gguf")
    assert "m.gguf is there already: replace it with --overwrite" in minillm("export", run, "m.gguf", expect=2).stderr
    minillm("export", run, "m.gguf", "--overwrite")
