"""Runs that learn from preferences: the reference computed once, what is learned, resumed, cut and refused."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend.arrays import to_host
from minillm.data import packing
from minillm.data.preferences import pair_of
from minillm.errors import UserError
from minillm.models.preference import PreferenceModel
from minillm.pretrained import tokenizer_of
from minillm.training import (
    Control,
    Reporter,
    TrainingSettings,
    preference_encoding,
    preference_examples,
    start_run,
    train,
)
from minillm.training import reference as reference_module
from minillm.training.data_parallel import DataParallel
from minillm.training.metrics import read_metrics
from minillm.training.preference_objective import DirectPreference, log_probabilities
from minillm.training.run import resume_run

TEXT = "User:\nthe quick brown fox?\n\nAssistant:\njumps over the lazy dog.\n\n" * 25
WORDS = "the quick brown fox jumps over the lazy dog".split()


def text_pairs(count=30):
    """Prompts of one or two words; the chosen answer ends with a dot, the rejected one with a question mark."""
    rows = []
    for number in range(count):
        words = [WORDS[(number * step) % 9] for step in (1, 2, 4)]
        answer = f" {words[1]}"
        rows.append({"prompt": words[0], "chosen": f"{answer} {words[2]}.", "rejected": f"{answer}?"})
    return rows


def conversations(rows):
    """The same pairs as messages."""
    roles = (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))
    return [{name: [{"role": role, "content": row[name].strip()}] for name, role in roles} for row in rows]


@pytest.fixture(params=["gpt2"])
def base(request, tmp_path, new_run):
    """A run without a step, to continue from."""
    text = tmp_path / "base.txt"
    text.write_text(TEXT)
    return new_run("base", data=(str(text),), model=dict(context_length=32))


@pytest.fixture
def preferring(tmp_path, base):
    """A function that starts a run on pairs in tmp_path/NAME with changed settings."""

    def start(name="run", rows=None, model=None, device="cpu", **settings):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in (text_pairs() if rows is None else rows)))
        defaults = dict(init=str(base.folder), preference_data=(str(path),), batch_size=4, max_steps=6, eval_interval=3)
        defaults |= dict(sample_tokens=3, warmup_steps=1, lr=1e-2, min_lr=1e-3)
        return start_run(TrainingSettings(**{**defaults, **settings}), model or {}, tmp_path / name, device=device)

    return start


class Listener(Reporter):
    def __init__(self):
        self.evaluations, self.steps, self.prepared = [], [], []

    def on_evaluation(self, step, train, validation, is_best):
        self.evaluations.append((train, validation))

    def on_figures(self, figures):
        self.steps.append(figures)

    def on_preparation(self, what, done, total):
        self.prepared.append((done, total))


def listened(run, **settings):
    listener = Listener()
    train(run, listener, **settings)
    return listener


def weights(run):
    return {name: np.array(to_host(parameter.value)) for name, parameter in run.model.parameters().items()}


@pytest.mark.parametrize("rows", [text_pairs(), conversations(text_pairs())], ids=["texts", "messages"])
def test_the_model_learns_what_is_preferred(preferring, rows):
    """From its own reference, log 2 and one half, to pairs in order; the numbers are in metrics.jsonl and reported."""
    run = preferring(rows=rows, max_steps=12, eval_interval=6)
    listener = listened(run)
    first, last = listener.evaluations[0], listener.evaluations[-1]
    for evaluation in first:
        assert evaluation.loss == pytest.approx(np.log(2), abs=1e-6)
        assert evaluation.figures["accuracy"] == 0.5 and abs(evaluation.figures["margin"]) < 1e-4
    assert last[1].figures["accuracy"] == 1 and last[1].figures["margin"] > 0.1 and last[1].loss < 0.65
    assert (first[0].tokens, first[1].tokens) == (27, 3)
    assert len(listener.steps) == 12 and set(listener.steps[0]) == set(DirectPreference.figures)
    events = read_metrics(run.folder)
    evaluated = [event for event in events if event["event"] == "eval"][-1]
    assert evaluated["val_accuracy"] == 1 and evaluated["val_chosen_reward"] > evaluated["val_rejected_reward"]
    assert not any("perplexity" in name for name in evaluated)
    (step,) = (event for event in events if event["event"] == "step" and event["step"] == 10)
    assert step["margin"] == pytest.approx(step["chosen_reward"] - step["rejected_reward"])
    assert minillm.from_pretrained(run.folder).config == run.model.config


def test_prompts_and_padding_have_no_target(preferring):
    """The targets of each text are its answer and, where the vocabulary has one, its end."""
    run = preferring()
    ids, targets = run.examples._texts("training", [0, 1, 2])
    decode = run.tokenizer.decode
    for pair, row in enumerate(text_pairs(3)):
        for side, name in enumerate(("chosen", "rejected")):
            counted = targets[pair, side] != -100
            assert decode(targets[pair, side][counted].tolist()) == row[name]
            seen = ids[pair, side][: np.flatnonzero(counted)[-1] + 1].tolist()
            assert decode([*seen, int(targets[pair, side][counted][-1])]) == row["prompt"] + row[name]


FAULTS = {
    "tokens of the prompt count": (
        preference_encoding, "[(len(before), len(before + answer + end))]", "[(0, len(before + answer + end))]"),
    "chosen and rejected swapped": (
        preference_encoding, "for answer in (pair.chosen, pair.rejected)]", "for answer in (pair.rejected, pair.chosen)]"),
    "targets that are the tokens themselves": (
        packing, "np.where(learned[1:], tokens[1:], IG", "np.where(learned[1:], tokens[:-1], IG"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_what_is_learned_are_caught(fault, preferring, monkeypatch):
    module, right, wrong = FAULTS[fault]
    name = "encoded_pairs" if module is preference_encoding else "padded_rows"
    monkeypatch.setattr(preference_examples, name, getattr(planted(module, right, wrong), name))
    with pytest.raises(AssertionError):
        test_prompts_and_padding_have_no_target(preferring)


def test_the_reference_is_the_model_before_the_first_step(preferring, base):
    run = preferring()
    train(run)
    model = PreferenceModel(minillm.from_pretrained(base.folder), 1.0).eval()
    for part in ("training", "validation"):
        for numbers, ids, targets in run.examples._all_pairs(part):
            assert_close(run.examples.reference.values[part][numbers], model.forward(ids, targets), 1e-5)


def test_the_reference_is_computed_once(preferring, monkeypatch):
    """Neither a resumed run nor a second call of train computes it again."""
    run = preferring()
    assert listened(run, stop_after=2).prepared[-1] == (30, 30)
    monkeypatch.setattr(reference_module, "log_probabilities", None)
    run = resume_run(run.folder)
    assert not listened(run).prepared


def test_an_interrupted_reference_goes_on_where_it_was(preferring, monkeypatch):
    """Ctrl-C while the reference reads: what it has read is kept, and nothing of it is read again."""
    run, control, read = preferring(), Control(), []

    class Interrupting(Listener):
        def on_preparation(self, what, done, total):
            if done >= 8:
                control.ended = True

    def counted(parallel, ids, targets):
        read.append(len(ids))
        return log_probabilities(parallel, ids, targets)

    monkeypatch.setattr(reference_module, "log_probabilities", counted)
    assert train(run, Interrupting(), control=control) == "stopped"
    assert sum(read) == 8 and run.progress.step == 0
    resumed = resume_run(run.folder)
    train(resumed, stop_after=1)
    assert sum(read) == 30 and resumed.examples.reference.is_complete


def test_numbers_of_another_model_are_computed_again(preferring):
    """Before the first step; after it they are refused."""
    run = preferring()
    train(run, stop_after=0)
    before = run.examples.reference.values["training"].copy()
    run = resume_run(run.folder)
    run.model.parameters()["transformer.ln_f.weight"].value[...] *= 2
    train(run, stop_after=1)
    assert not np.allclose(run.examples.reference.values["training"], before)
    run.examples.reference.path.unlink()
    with pytest.raises(UserError, match="is missing or not complete, and the model has learned since"):
        train(resume_run(run.folder))


def test_numbers_of_other_pairs_are_not_taken(preferring):
    one, other = preferring("one"), preferring("other", rows=text_pairs(29))
    train(one, stop_after=1)
    (other.folder / "training" / "reference.safetensors").write_bytes(one.examples.reference.path.read_bytes())
    other.release()
    assert not resume_run(other.folder).examples.reference.is_complete


def test_a_damaged_file_of_the_reference_is_named(preferring):
    run = preferring()
    train(run, stop_after=1)
    run.examples.reference.path.write_bytes(b"{")
    with pytest.raises(UserError, match="reference.safetensors is not a complete safetensors file"):
        resume_run(run.folder)


@pytest.mark.parametrize("settings", [dict(), dict(lora_rank=2), dict(gradient_accumulation=2)], ids=str)
def test_interrupted_and_resumed_is_the_same_bit_for_bit(preferring, settings):
    model = dict(dropout=0.2)
    whole, parts = preferring("whole", model=model, **settings), preferring("parts", model=model, **settings)
    train(whole)
    train(parts, stop_after=4)
    parts = resume_run(parts.folder)
    train(parts)
    for name, value in weights(whole).items():
        assert (value == weights(parts)[name]).all(), name
    assert whole.progress.history == parts.progress.history


def test_lora_learns_and_the_rest_stays(preferring, base):
    run = preferring(lora_rank=2, max_steps=12, eval_interval=6)
    listener = listened(run)
    assert all("lora_" in name for name in run.optimizer.parameters)
    assert listener.evaluations[0][1].figures["accuracy"] == 0.5
    assert listener.evaluations[-1][1].figures["margin"] > 0.01
    for name, value in weights(base).items():
        assert (weights(run)[name] == value).all()


def test_accumulated_batches_are_one_large_batch(preferring):
    """The first step of two batches of 3 pairs is that of one of 6, in the same order."""
    sizes = dict(batch_size=6), dict(batch_size=3, gradient_accumulation=2)
    runs = [preferring(f"run-{number}", dtype="float64", **size) for number, size in enumerate(sizes)]
    for run in runs:
        train(run, stop_after=1)
    for name, value in weights(runs[0]).items():
        assert_close(weights(runs[1])[name], value, 1e-9)


@contextmanager
def workers(model, count):
    with DataParallel(model, count) as parallel:
        assert len(parallel.models) == count
        yield parallel


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_workers_gives_the_same(preferring, count):
    """Loss, figures, gradients and reference; also where there are more workers than pairs, and with dropout."""
    run = preferring(dtype="float64", model=dict(dropout=0.2))
    model, objective = run.model.train(), DirectPreference(0.1, 0.1)
    run.examples.reference.values["training"][...] = -7
    found = []
    for number in (1, count):
        with workers(model, number) as parallel:
            batch = run.examples.batch(0, 0)
            model.zero_grad()
            loss = objective.loss_and_gradients(parallel, [batch], 4, [(0, "dropout", 0, 0)])
            gradients = {name: parameter.grad.copy() for name, parameter in model.parameters().items()}
            reference = np.concatenate(log_probabilities(parallel, *batch[:2]))
            found.append(
                (loss, np.array(objective.take_figures()), objective.loss(parallel, batch), reference, gradients)
            )
            objective.take_figures()
    one, several = found
    for first, other in zip(one[:4], several[:4]):
        assert_close(other, first)
    for name, gradient in one[4].items():
        assert_close(several[4][name], gradient)


def test_a_batch_is_a_function_of_its_step_and_every_pair_comes_once_in_a_pass(preferring):
    run = preferring(batch_size=3)
    train(run, stop_after=0)
    run = resume_run(run.folder)
    drawn = [tuple(pair) for step in range(9) for pair in run.examples.batch(step, 0)[2].tolist()]
    assert len(drawn) == 27 and sorted(drawn) == sorted(map(tuple, run.examples.reference.values["training"].tolist()))
    for one, other in zip(run.examples.batch(5, 0), run.examples.batch(5, 0)):
        assert (one == other).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_the_simulator(preferring, simulator, dtype):
    """The same losses as on the host, within the precision.

    With plain gradient descent: Adam divides each gradient by its own size, and where those of the
    two answers cancel, what it divides is rounding.
    """
    settings = dict(max_steps=2, eval_interval=2, batch_size=2, sample_tokens=0, dtype=dtype, eval_windows=2)
    settings |= dict(optimizer="sgd", lr=1.0)
    rows = [{"prompt": "the", "chosen": f" {word}.", "rejected": f" {word}?"} for word in ("fox", "dog", "lazy")]
    losses = {}
    for device in ("cpu", "cudasim"):
        listener = listened(preferring(device, rows=rows, device=device, **settings))
        losses[device] = [evaluation.loss for pair in listener.evaluations for evaluation in pair]
    assert losses["cudasim"] == pytest.approx(losses["cpu"], abs=1e-6 if dtype == "float32" else 1e-3)


# ------------------------------------------------------------------------------------------- what is left out, and said


def test_what_is_cut_and_left_out_is_said_with_its_count(preferring):
    rows = [
        {"prompt": "the", "chosen": " fox" * 20, "rejected": " dog"},  # cut
        {"prompt": "the " * 20, "chosen": " fox", "rejected": " dog"},  # no answer within the context of 32
        {"prompt": "the", "chosen": " fox" * 20 + ".", "rejected": " fox" * 20 + "?"},  # the same where it is cut
        {"prompt": "the", "chosen": " dog", "rejected": " dog"},
        {"prompt": "the", "chosen": " dog", "rejected": ""},
        {"prompt": "the", "chosen": " fox", "rejected": " dog", "score_chosen": 1, "score_rejected": 2, "id": 7},
        *text_pairs(8),
    ]
    run = preferring(rows=rows)
    said = "\n".join(run.examples.summary(run.settings, run.tokenizer))
    assert "9 pairs, " in said and "1 pair, " in said
    for text in (
        "1 pair was longer than the context of 32 tokens, and cut at its end",
        "1 pair was left out: an answer comes after the context of 32 tokens",
        "2 pairs have the same answer twice, left out: a tie teaches nothing",
        "1 pair has an answer without text, left out",
        "1 pair has scores that are not higher for the chosen answer",
        "fields that were not read: id (1)",
    ):
        assert text in said
    assert "(every 10th)" in said
    few = preferring("few", rows=text_pairs(3))
    assert "(the last one)" in few.examples.summary(few.settings, few.tokenizer)[2]
    assert run.examples.tokens["training"].lengths.max() <= 33


def test_a_file_to_validate_on(preferring, tmp_path):
    path = tmp_path / "validation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in text_pairs(5)))
    run = preferring(preference_validation=(str(path),))
    assert [len(run.examples.rows[part]) for part in ("training", "validation")] == [30, 5]


def test_texts_become_messages_with_a_template(preferring):
    run = preferring(chat_template="plain")
    ids, _ = run.examples.tokens["training"][0]
    assert run.tokenizer.decode(ids.tolist()).startswith("User:\nthe\n\nAssistant:\n")
    assert (run.folder / "chat_template.jinja").is_file()
    assert not (preferring("texts").folder / "chat_template.jinja").exists()


def encoded(tokenizer, *rows, special=""):
    """The texts of pairs, each with those of its tokens that count put between brackets."""
    pairs = [pair_of(f"f, line {number}", row) for number, row in enumerate(rows, start=1)]
    tokens, done = preference_encoding.encoded_pairs(pairs, "training", None, tokenizer, special, 40)
    texts = []
    for number in range(len(tokens)):
        ids, learned = tokens[number]
        texts.append(tokenizer.decode(ids[~learned].tolist()) + "[" + tokenizer.decode(ids[learned].tolist()) + "]")
    return texts, done


def test_an_answer_ends_with_the_end_of_text_and_special_tokens_are_read():
    """Once, where the file has it already; and a special token in the file can be refused."""
    tokenizer = minillm.BytePairTokenizer.train("the quick brown fox " * 9, 270, ["<|endoftext|>", "<|im_end|>"])
    rows = (
        {"prompt": "the quick", "chosen": " brown", "rejected": " fox"},
        {"prompt": "the<|im_end|>", "chosen": " fox<|endoftext|>\n", "rejected": " fox"},
        {"prompt": "the", "chosen": " fox<|endoftext|>", "rejected": " fox"},
    )
    texts, done = encoded(tokenizer, *rows)
    assert texts == ["the quick[ brown<|endoftext|>]", "the quick[ fox<|endoftext|>]"]
    assert (done["same"], done["special"]) == (2, 2)
    with pytest.raises(
        UserError, match="f, line 2: the text contains the special token '<|im_end|>'".replace("|", r"\|")
    ):
        encoded(tokenizer, *rows, special="refuse")


def test_a_text_begins_with_the_bos_of_its_tokenizer(real_data):
    """Of a real Llama: BOS, the prompt as it is encoded alone, the answer, EOS."""
    tokenizer = tokenizer_of(real_data / "stories260K" / "stories260K.bin")
    row = {"prompt": "Once upon a time", "chosen": " there was a dog.", "rejected": " no"}
    tokens, _ = preference_encoding.encoded_pairs([pair_of("f", row)], "training", None, tokenizer, "", 40)
    ids, learned = tokens[0]
    assert ids.tolist() == [*tokenizer.encode("Once upon a time there was a dog."), tokenizer.eos]
    assert ids[~learned].tolist() == tokenizer.encode("Once upon a time") == [1, 403, 407, 261, 378]


@pytest.mark.parametrize(
    "rows, why",
    [
        ([], "is empty"),
        (text_pairs(1), "1 of its pairs has two different answers: one is needed to learn from"),
        ([{"prompt": "the", "chosen": "fox", "rejected": 3}], "line 1: rejected is a number"),
        ([{"prompt": "the", "chosen": "fox", "rejected": "Ω"}] * 2, "line 1: .*Ω"),
        (
            [{"prompt": "the " * 20, "chosen": " fox", "rejected": " dog"}] * 4,
            "no training pair has two different answers",
        ),
    ],
    ids=range(5),
)
def test_files_without_pairs_are_refused_before_anything_is_written(preferring, tmp_path, rows, why):
    with pytest.raises(UserError, match=why):
        preferring(rows=rows)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings, why",
    [
        (dict(init=""), "--preference-data changes a model that can write: name it with --init"),
        (dict(chat_data=("chats.jsonl",)), "--chat-data are conversations and --preference-data are pairs"),
        (dict(data=("text.txt",)), "--data is a text and --preference-data are pairs"),
        (dict(dpo_beta=0.0), "--dpo-beta is 0.0: it must be a finite number above 0"),
        (dict(dpo_label_smoothing=0.5), "--dpo-label-smoothing is 0.5"),
        (dict(label_smoothing=0.1), "--label-smoothing is of tokens"),
        (dict(special="text"), "--special text: a pair is read with its special tokens"),
        (dict(preference_data=(), dpo_beta=0.2), "--dpo-beta is of preferences: name them with --preference-data"),
        (dict(preference_data=(), preference_validation=("a",)), "--preference-validation is of preferences"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings, why):
    with pytest.raises(UserError, match=why):
        TrainingSettings(**{"init": "model", "preference_data": ("pairs.jsonl",), **settings})


def test_a_run_does_not_overwrite_its_pairs(preferring, base, tmp_path):
    path = tmp_path / "here" / "pairs.jsonl"
    path.parent.mkdir()
    (path.parent / "metrics.jsonl").touch()
    path.write_text("".join(json.dumps(row) + "\n" for row in text_pairs()))
    settings = TrainingSettings(init=str(base.folder), preference_data=(str(path),))
    with pytest.raises(UserError, match="which the run is to learn from"):
        start_run(settings, {}, path.parent, overwrite=True)
