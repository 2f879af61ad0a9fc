"""What `minillm train` proposes works, whatever the text was; and so does `minillm generate`
without a prompt.
"""

import re
import shlex

import pytest

SMALL = "--tokenizer char --n-layer 1 --n-head 1 --d-model 8 --context-length 8 --batch-size 2".split()
SMALL += "--eval-windows 2 --sample-tokens 2 --max-steps 1 --warmup-steps 0 --out".split()


@pytest.mark.parametrize("text", ["ab", 'it\'s $HOME `x` "q" ! \\ ', "-a --b ", "\n\n\n\t", "😀 é"])
def test_a_first_text(minillm, tmp_path, text):
    (tmp_path / "own.txt").write_text(text * 100, encoding="utf-8", newline="")
    shown = minillm("train", "--data", "own.txt", *SMALL, "my run").stderr
    assert "a text that continues" in shown
    (line,) = re.findall(r"^  minillm (generate .*)$", shown, re.MULTILINE)
    words = shlex.split(line)
    assert words[:2] == ["generate", "my run"]
    for arguments in (words, words[:2]):
        assert minillm(*arguments, "--max-tokens", 3).stdout.strip("\n") or text.isspace()


def test_a_prompt_of_byte_pairs_that_ends_in_a_space_gets_a_note(minillm, train):
    """Byte pairs begin a word with its space: a space alone leaves the path of the tokens that were
    learned.
    """
    train("--tokenizer", "bpe", "--vocab-size", 270, *SMALL[2:-1])
    note = "(the prompt ends in a space: byte pairs begin a word with its space, so leave the last one out)\n"
    assert note in minillm("generate", "run", "--prompt", "the ", "--max-tokens", 1).stderr
    assert note not in minillm("generate", "run", "--prompt", "the", "--max-tokens", 1).stderr
    train(*SMALL[:-1], out="characters")
    assert note not in minillm("generate", "characters", "--prompt", "the ", "--max-tokens", 1).stderr
