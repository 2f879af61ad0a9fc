"""Fine-tuning on conversations: what is drawn, the mean over the assistant's tokens, and the run folder."""

import json
import shutil

import numpy as np
import pytest
from chat_runs import CHARACTERS, SETTINGS, conversations, save_base, write_lines
from kernel_testing import needs_compiler
from safetensors.numpy import load_file

import minillm
from minillm.backend.arrays import to_host
from minillm.errors import UserError
from minillm.tokenizers import BytePairTokenizer
from minillm.training import Reporter, TrainingSettings, resume_run, start_run, train
from minillm.training.chat_examples import ChatExamples
from minillm.training.data_parallel import DataParallel
from minillm.training.evaluation import evaluate_whole
from minillm.training.examples import TRAINING, VALIDATION


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_base(folder / kind, kind) for kind in ("gpt2", "llama")}


@pytest.fixture
def new_chat(tmp_path, bases):
    """A function that starts a run on 24 conversations in tmp_path/NAME."""
    data = write_lines(tmp_path / "talks.jsonl", conversations(24))

    def start(name="chat", kind="gpt2", device="cpu", model=None, **settings):
        settings = {**SETTINGS, "init": bases[kind], "chat_data": (str(data),), **settings}
        return start_run(TrainingSettings(**settings), model or {}, tmp_path / name, device=device)

    return start


def weights(run):
    return {name: to_host(parameter.value).copy() for name, parameter in run.model.parameters().items()}


# ------------------------------------------------------------------------------------------------------- the examples


def test_batches_are_a_function_of_their_key_and_every_row_comes_once_in_a_pass(new_chat):
    examples = new_chat(batch_size=2, gradient_accumulation=2).examples
    rows = len(examples.rows[TRAINING])
    drawn = [
        examples.batch(step, micro) for step in range(rows) for micro in range(2)
    ]  # four passes, of 2 rows each time
    for one, other in zip(drawn[5], examples.batch(2, 1)):
        np.testing.assert_array_equal(one, other)
    shown = [tuple(row) for batch in drawn for row in batch[0].tolist()]
    passes = [shown[first : first + rows] for first in range(0, len(shown), rows)]
    assert all(len(set(each)) == rows for each in passes) and len({tuple(each) for each in passes}) > 1


def answers_of(found):
    """What the assistant says in conversations, each answer with its end."""
    return [f"{each['content']}\n\n" for one in found for each in one["messages"] if each["role"] == "assistant"]


@pytest.mark.parametrize("packing", [True, False])
def test_only_the_answers_are_targets(new_chat, packing):
    batches = list(new_chat(packing=packing).examples.evaluation_batches(TRAINING))
    assert any(len(batch) == 3 for batch in batches) == packing  # starts, where rows hold several conversations
    learned = [CHARACTERS.decode(row[row != -100]) for batch in batches for row in batch[1]]
    held = [each for number, each in enumerate(conversations(24), start=1) if number % 10]
    assert sorted("".join(learned).split("\n\n")) == sorted("".join(answers_of(held)).split("\n\n"))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_packed_rows_have_the_loss_of_the_conversations_alone(new_chat, kind):
    runs = [new_chat(f"packing-{packing}", kind, packing=packing, dtype="float64") for packing in (True, False)]
    packed, alone = (evaluate_whole(run.model, run.examples, TRAINING) for run in runs)
    assert len(runs[0].examples.rows[TRAINING]) < len(runs[1].examples.rows[TRAINING])
    assert packed.tokens == alone.tokens and packed.loss == pytest.approx(alone.loss, rel=1e-12)


def test_the_loss_is_the_mean_over_all_learned_tokens_of_a_step(new_chat):
    """Of 2 rows three times as of 6 rows at once, though they have different numbers of targets."""
    shared = dict(dtype="float64", gradient_clip=0.0)
    one = new_chat("one", batch_size=6, **shared)
    three = new_chat("three", batch_size=2, gradient_accumulation=3, **shared)
    counts = {int((three.examples.batch(0, micro)[1] != -100).sum()) for micro in range(3)}
    assert len(counts) > 1
    for run in (one, three):
        train(run, stop_after=3)
    for name, value in weights(one).items():
        np.testing.assert_allclose(weights(three)[name], value, rtol=1e-9, atol=1e-12)


def test_a_batch_cut_into_parts_has_the_gradients_of_the_whole(new_chat):
    run = new_chat(dtype="float64")
    batch, objective, found = run.examples.batch(0, 0), run.examples.objective, []
    assert len(batch) == 3
    for workers in (1, 3):
        run.model.train()
        with DataParallel(run.model, workers) as parallel:
            loss = objective.loss_and_gradients(parallel, [batch], 50.0, [(0, "dropout")])
        found.append((float(loss), {n: p.grad.copy() for n, p in run.model.parameters().items()}))
        run.optimizer.zero_grad()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for name, gradient in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], gradient, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ training


class Losses(Reporter):
    """The losses of the steps, and the samples."""

    def __init__(self):
        self.losses, self.samples = [], []

    def on_step(self, step, loss, *others):
        self.losses.append(loss)

    def on_sample(self, step, text):
        self.samples.append(text)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_run_learns_to_answer_and_its_folder_answers(new_chat, kind, tmp_path):
    run = new_chat(kind=kind, max_steps=40, eval_interval=20)
    reporter = Losses()
    assert train(run, reporter) == "finished"
    assert np.mean(reporter.losses[-5:]) < np.mean(reporter.losses[:5]) / 2
    assert all(sample.startswith("User:\nsay ") and "Assistant:\n" in sample for sample in reporter.samples)
    assert (tmp_path / "chat" / "chat_template.jinja").read_text() == run.examples.chat.template
    evaluation = evaluate_whole(run.load_model(), run.examples, VALIDATION)
    assert evaluation.loss == pytest.approx(run.progress.best_val_loss, rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"gradient_accumulation": 2, "checkpoint_activations": True}, {"lora_rank": 2}]
)
def test_stopping_and_resuming_gives_the_same_bytes(new_chat, settings, tmp_path):
    whole, broken = new_chat("whole", "llama", **settings), new_chat("broken", "llama", **settings)
    train(whole)
    train(broken, stop_after=4)
    del broken
    train(resume_run(tmp_path / "broken"))
    for name in ("training/optimizer.safetensors", "chat_template.jinja", "training/train.npy"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


def test_computing_blocks_again_changes_nothing(new_chat):
    runs = [new_chat(f"again-{again}", checkpoint_activations=again) for again in (False, True)]
    for run in runs:
        train(run, stop_after=2)
    for name, value in weights(runs[0]).items():
        np.testing.assert_array_equal(weights(runs[1])[name], value)


def test_lora_and_frozen_parameters(new_chat, bases):
    before = load_file(f"{bases['llama']}/model.safetensors")
    run = new_chat(kind="llama", lora_rank=2, merge=True)
    train(run)
    assert set(load_file(run.folder / "model.safetensors")) == set(before)
    run = new_chat("frozen", "llama", freeze=("*.embed_tokens.*",))
    train(run)
    after = load_file(run.folder / "model.safetensors")
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed and not any("embed_tokens" in name for name in changed)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_the_kernels_give_the_losses_of_numpy(new_chat, dtype, tolerance, tmp_path):
    needs_compiler()
    data = write_lines(tmp_path / "short.jsonl", conversations(12, turns=1))
    shared = dict(chat_data=(str(data),), batch_size=2, eval_windows=1, sample_tokens=0, max_steps=2)
    losses = []
    for device in ("cpu", "cudasim"):
        reporter = Losses()
        run = new_chat(device, "llama", device, dtype=dtype if device == "cudasim" else "float32", **shared)
        assert any(len(run.examples.batch(step, 0)) == 3 for step in range(2))
        train(run, reporter)
        losses.append(reporter.losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)


# --------------------------------------------------------------------------------------------- splits, cuts, and folders


def test_every_tenth_conversation_is_for_validation(new_chat, tmp_path):
    examples = new_chat().examples
    assert [examples.contents[part]["given"] for part in (TRAINING, VALIDATION)] == [22, 2]
    assert examples.contents["question"] == conversations(24)[9]["messages"][0]["content"]
    few = write_lines(tmp_path / "few.jsonl", conversations(3))
    examples = new_chat("few", chat_data=(str(few),)).examples
    assert [examples.contents[part]["given"] for part in (TRAINING, VALIDATION)] == [2, 1]
    examples = new_chat("two", chat_data=(str(few), str(few)), chat_validation=(str(few),)).examples
    assert [examples.contents[part]["given"] for part in (TRAINING, VALIDATION)] == [6, 3]
    assert "3 validation conversations are among those to learn from as well" in examples.summary(
        TrainingSettings(init="a", chat_data=("few.jsonl",), chat_validation=("few.jsonl",)), CHARACTERS
    )


def test_what_is_cut_and_left_out_is_counted(new_chat, tmp_path):
    def asked(question, answer):
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "id": 1}

    lines = [asked("say red", "red."), asked("say", "red " * 40), asked("red " * 40, "red."), asked("say dog", "dog.")]
    data = write_lines(tmp_path / "long.jsonl", lines)
    examples = new_chat(chat_data=(str(data),)).examples
    assert examples.contents[TRAINING] == {"given": 3, "split": 0, "cut": 1, "left_out": 1, "special": 0}
    assert max(examples.tokens[TRAINING].lengths) == 129
    shown = examples.summary(TrainingSettings(init="a", chat_data=("long.jsonl",)), CHARACTERS)
    assert "1 were longer than the context of 128 tokens, and were cut at its end" in shown
    assert "1 were left out: their answers come after the context of 128 tokens" in shown
    assert "fields that were not read: id (4)" in shown


@pytest.mark.parametrize(
    "lines, message",
    [
        (conversations(1), "line 1 is the only conversation: one is needed to learn from, and another"),
        ([*conversations(3), {"messages": []}], "line 4: messages is an empty list"),
        (
            [{"messages": [{"role": "user", "content": "red " * 40}, {"role": "assistant", "content": "red."}]}] * 2,
            "no training conversation has an answer within the context of 128 tokens",
        ),
        (
            [*conversations(2), {"prompt": "say äh", "completion": "red."}],
            "line 3: the model has never seen the character 'ä'",
        ),
    ],
)
def test_a_wrong_file_leaves_nothing_behind(new_chat, tmp_path, lines, message):
    data = write_lines(tmp_path / "wrong.jsonl", lines)
    with pytest.raises(UserError, match=message):
        new_chat(chat_data=(str(data),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talks.jsonl", "wrong.jsonl"]


def test_settings_that_do_not_go_together():
    for settings, message in (
        (dict(chat_data=("a",)), "--chat-data teaches a model to answer: name the model"),
        (dict(chat_data=("a",), init="b", data=("c",)), "--data is a text and --chat-data are conversations"),
        (dict(chat_data=("a",), init="b", special="text"), "--special text: a conversation is read with its special"),
        (dict(chat_template="a"), "--chat-template belongs to conversations"),
        (dict(chat_validation=("a",)), "--chat-validation belongs to conversations"),
    ):
        with pytest.raises(UserError, match=message):
            TrainingSettings(**settings)


def test_a_damaged_folder_is_named(new_chat, tmp_path):
    run = new_chat()
    run.release()
    ends = tmp_path / "chat" / "training" / "train-ends.npy"
    shutil.copy(tmp_path / "chat" / "training" / "validation-ends.npy", ends)
    with pytest.raises(UserError, match=r"the files train\*\.npy do not belong together"):
        resume_run(tmp_path / "chat")
    ends.unlink()
    with pytest.raises(UserError, match="train-ends.npy is missing"):
        resume_run(tmp_path / "chat")


def test_a_damaged_description_is_named(new_chat, tmp_path):
    new_chat().release()
    path = tmp_path / "chat" / "training" / "chat.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "stop"}))
    with pytest.raises(UserError, match="chat.json is incomplete: stop is missing"):
        resume_run(tmp_path / "chat")


def test_special_tokens_in_messages(tmp_path):
    tokenizer = BytePairTokenizer.train("say red. " * 20, 270, ["<|endoftext|>"])
    init = save_base(tmp_path / "base", tokenizer=tokenizer)
    lines = [*conversations(4), {"prompt": "say <|endoftext|>", "completion": "red."}, *conversations(2)]
    data = write_lines(tmp_path / "talks.jsonl", lines)
    settings = dict(SETTINGS, init=init, chat_data=(str(data),))
    run = start_run(TrainingSettings(**settings), {}, tmp_path / "run")
    assert any("1 have the text of a special token" in line for line in run.examples.summary(run.settings, tokenizer))
    end = tokenizer.special_tokens["<|endoftext|>"]
    assert json.loads((tmp_path / "run" / "generation_config.json").read_text())["eos_token_id"] == end
    with pytest.raises(UserError, match=r"talks.jsonl, line 5: the text contains the special token '<\|endoftext\|>'"):
        start_run(TrainingSettings(**settings, special="refuse"), {}, tmp_path / "refused")


@pytest.mark.peers
def test_the_folder_answers_in_transformers(new_chat, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    run = new_chat(kind="llama", max_steps=20, eval_interval=20)
    train(run)
    theirs = transformers.AutoTokenizer.from_pretrained(run.folder)
    question = [{"role": "user", "content": "say red cat"}]
    ids = theirs.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert ids[0].tolist() == run.examples.chat.encode(CHARACTERS, question)[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(run.folder)
    written = model.generate(ids, do_sample=False, max_new_tokens=8, attention_mask=torch.ones_like(ids))[
        0, ids.shape[1] :
    ]
    sampler = minillm.Sampler(temperature=0)
    ours = minillm.generate(run.load_model(), ids.numpy(), max_new_tokens=8, sampler=sampler)
    assert written.tolist() == [int(token[0]) for token in ours]


def test_read_is_the_last_kind(tmp_path):
    """A text is what a run learns from where no other kind is named."""
    from minillm.training.example_kinds import kind_of
    from minillm.training.text_examples import TextExamples

    assert kind_of(TrainingSettings()) is TextExamples
    assert kind_of(TrainingSettings(init="a", chat_data=("b",))) is ChatExamples
