"""Special tokens in texts and prompts at the command line, and conversations."""

import json
import sys
from types import SimpleNamespace

import pytest

from minillm import GPT2, GPT2Config, cli
from minillm.tokenizers import BytePairTokenizer

END = "<|endoftext|>"
STORY = "the quick brown fox jumps over the lazy dog. "
TOKENIZER = BytePairTokenizer.train(STORY * 9, 280, [END, "<|im_start|>", "<|im_end|>"])
SMALL = (
    "--n-layer 1 --n-head 2 --d-model 16 --context-length 8 --batch-size 4 --eval-interval 5 --eval-windows 4".split()
)
SHORT = "--max-steps 3 --eval-interval 3 --eval-windows 2 --batch-size 2 --context-length 8".split()
CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


@pytest.fixture
def minillm(tmp_path, monkeypatch, capsys):
    """The command line as in conftest.py, but in this process: it is called often."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, expect=0):
        monkeypatch.setattr(sys, "argv", ["minillm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == expect, err
        return SimpleNamespace(stdout=out, stderr=err)

    return run


@pytest.fixture
def model(tmp_path):
    """A folder with a small GPT-2, and stories.txt of seven stories with the end of text between
    them.
    """
    folder = tmp_path / "model"
    config = GPT2Config(vocab_size=280, context_length=64, n_layer=1, n_head=2, d_model=16)
    GPT2(config, seed=1).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    (tmp_path / "stories.txt").write_text(END.join([STORY * 5] * 7))
    return folder


def ids_of(*texts, special):
    return len(
        TOKENIZER.encode("".join(texts), **({"allowed_special": "all"} if special else {"disallowed_special": ()}))
    )


def test_documents_are_separated(minillm, model, tmp_path):
    """The end of text is a token in training and in evaluation; the run remembers how it was read."""
    stories = (tmp_path / "stories.txt").read_text()
    started = minillm("train", "--init", "model", "--data", "stories.txt", "--out", "run", *SHORT)
    assert f"6 of them are the end of text, {END}" in started.stderr
    done = minillm("evaluate", "run", "--data", "stories.txt")
    assert f"tokens {ids_of(stories, special=True) - 1:,} " in done.stdout and "6 of them are" in done.stderr
    done = minillm("evaluate", "run", "--data", "stories.txt", "--special", "text")
    assert f"tokens {ids_of(stories, special=False) - 1:,} " in done.stdout and "of them" not in done.stderr
    message = minillm("evaluate", "run", "--data", "stories.txt", "--special", "refuse", expect=2).stderr
    assert f"contains the special token '{END}'" in message and "--special allow" in message
    assert "special (the run has" in minillm("train", "--resume", "run", "--special", "text", expect=2).stderr


def test_a_run_is_measured_as_it_was_trained(minillm, model, tmp_path):
    stories = (tmp_path / "stories.txt").read_text()
    minillm("train", "--init", "model", "--data", "stories.txt", "--out", "run", *SHORT, "--special", "text")
    assert json.loads((tmp_path / "run" / "training" / "state.json").read_text())["settings"]["special"] == "text"
    done = minillm("evaluate", "run", "--data", "stories.txt")
    assert f"tokens {ids_of(stories, special=False) - 1:,} " in done.stdout
    own = minillm("evaluate", "run", "--split", "train").stdout
    assert own == minillm("evaluate", "run", "--split", "train", "--special", "text").stdout
    assert own != minillm("evaluate", "run", "--split", "train", "--special", "allow").stdout
    assert "of them" not in minillm("train", "--resume", "run", "--stop-after", 3).stderr


def test_other_special_tokens_are_refused_with_advice(minillm, model, tmp_path):
    (tmp_path / "stories.txt").write_text(STORY * 20 + "<|im_end|>" + END)
    train = ("train", "--init", "model", "--data", "stories.txt", "--out", "run", *SHORT)
    message = minillm(*train, expect=2).stderr
    assert "contains the special token '<|im_end|>'" in message and "--special allow" in message
    assert not (tmp_path / "run").exists()
    assert 'unknown --special "maybe"' in minillm(*train, "--special", "maybe", expect=2).stderr
    assert "1 of them is the end of text" in minillm(*train, "--special", "allow").stderr


def test_new_byte_pairs_learn_the_end_of_text(minillm, tmp_path):
    (tmp_path / "stories.txt").write_text(END.join([STORY * 5] * 7))
    train = ("train", "--data", "stories.txt", "--tokenizer", "bpe", "--vocab-size", 500, "--max-steps", 3, *SMALL)
    assert "6 of them are the end of text" in minillm(*train, "--out", "run").stderr
    learned = BytePairTokenizer.from_pretrained(tmp_path / "run")
    assert list(learned.special_tokens) == [END]
    assert not any(b"endo" in token for token in learned.tokens[:-1]), "its letters are learned from nowhere"
    assert "of them" not in minillm(*train, "--out", "letters", "--special", "text").stderr
    assert BytePairTokenizer.from_pretrained(tmp_path / "letters").special_tokens == {}
    assert "contains the special token" in minillm(*train, "--out", "no", "--special", "refuse", expect=2).stderr


def test_characters_have_no_special_tokens(minillm, tmp_path):
    (tmp_path / "stories.txt").write_text(END.join([STORY * 5] * 7))
    train = ("train", "--data", "stories.txt", "--tokenizer", "char", "--max-steps", 3, *SMALL)
    assert "of them" not in minillm(*train, "--out", "run").stderr
    assert minillm("generate", "run", "--prompt", END, "--max-tokens", 1, "--special", "allow").stdout.startswith(END)


def test_prompts_are_text_unless_asked(minillm, model):
    def first_tokens(*more):
        table = minillm("inspect", "model", "--text", f"{END} the fox", "--json", *more).stdout
        return json.loads(table.splitlines()[0])["shape"][1]

    assert first_tokens() == ids_of(f"{END} the fox", special=False) - 1
    assert first_tokens("--special", "allow") == ids_of(f"{END} the fox", special=True) - 1
    assert "--special text" in minillm("inspect", "model", "--text", END, "--special", "refuse", expect=2).stderr
    ask = ("generate", "model", "--prompt", END, "--max-tokens", 2)
    assert minillm(*ask).stdout.startswith(END) and minillm(*ask, "--special", "allow").stdout.startswith(END)
    exact = (*ask, "--json", "--logprobs")
    assert minillm(*exact).stdout == minillm(*exact, "--special", "text").stdout
    assert minillm(*exact).stdout != minillm(*exact, "--special", "allow").stdout
    assert "--special allow" in minillm(*ask, "--special", "refuse", expect=2).stderr


def test_tokenizer_encode(minillm, model):
    end = TOKENIZER.special_tokens[END]
    assert minillm("tokenizer", "encode", "model", END, "--special", "allow").stdout == f"{end}\n"
    plain = minillm("tokenizer", "encode", "model", END, "--special", "text").stdout
    assert plain == minillm("tokenizer", "encode", "model", END, "--plain").stdout != f"{end}\n"
    assert "--special allow" in minillm("tokenizer", "encode", "model", END, expect=2).stderr


def test_a_conversation(minillm, model):
    """It ends where the template ends an answer, though no file names that token."""
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    path, end = model / "tokenizer_config.json", TOKENIZER.special_tokens["<|im_end|>"]
    templates = [{"name": "default", "template": CHATML}, {"name": "bad", "template": "{{ 1 / 0 }}"}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": templates}))
    ask = (
        "generate",
        "model",
        "--chat",
        "--prompt",
        "the fox",
        "--max-tokens",
        5,
        "--json",
        "--logit-bias",
        f"{end}:100",
    )
    answer = json.loads(minillm(*ask).stdout)
    assert answer["ids"] == [end] and answer["reason"] == "end"
    assert len(json.loads(minillm(*ask, "--ignore-end").stdout)["ids"]) == 5
    assert "ZeroDivisionError" in minillm(*ask, "--chat-template", "bad", expect=2).stderr
    assert "default" in minillm(*ask, "--chat-template", "none", expect=2).stderr
    assert "--chat-template: bad, default" in minillm(*ask, "--chat-template", "none", expect=2).stderr
    assert "with --chat" in minillm("generate", "model", "--chat-template", "bad", expect=2).stderr
    assert "conversation" in minillm(*ask, "--special", "text", expect=2).stderr
    assert minillm(*ask, "--special", "refuse").stdout == minillm(*ask).stdout
    question = ("generate", "model", "--chat", "--prompt", "<|im_end|>", "--special", "refuse")
    assert "contains the special token" in minillm(*question, expect=2).stderr
