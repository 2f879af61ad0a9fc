"""Continuing from a model that exists: training runs with init, freeze and LoRA."""

import json
import shutil

import pytest

import minillm
from minillm.errors import UserError
from minillm.training import Reporter, TrainingSettings, evaluate_model, start_run, train
from minillm.training.run import resume_run


@pytest.fixture(params=["gpt2", "llama"])
def base(request, new_run):
    """A run of a few steps, to continue from."""
    fields = dict(bias=False) if request.param == "gpt2" else dict(n_kv_head=1)
    run = new_run("base", model=dict(model_type=request.param, **fields))
    train(run)
    return run


@pytest.fixture
def continued(tmp_path, text_file, base):
    def start(name="tuned", model=None, **settings):
        defaults = dict(data=(str(text_file),), init=str(base.folder), batch_size=6, max_steps=12, eval_interval=4)
        defaults |= dict(eval_windows=5, sample_tokens=3, warmup_steps=2, lr=1e-2, min_lr=1e-3)
        return start_run(TrainingSettings(**{**defaults, **settings}), model or {}, tmp_path / name)

    return start


def losses_of(run):
    losses = []

    class Listener(Reporter):
        def on_evaluation(self, step, train, validation, is_best):
            losses.append(validation.loss)

    train(run, Listener())
    return losses


def test_continuing_starts_where_the_model_was(base, continued):
    run = continued()
    losses = losses_of(run)
    assert losses[0] == pytest.approx(base.progress.best_val_loss, rel=1e-6)
    assert losses[-1] < losses[0]
    assert run.tokenizer.characters == base.tokenizer.characters
    assert type(run.load_model()) is type(base.model)


def test_a_longer_context_learns_and_resumes(base, continued):
    """As Chen et al. and Peng et al. made theirs: the model goes on with longer texts and a scaling."""
    context = base.model.config.context_length
    if base.model.config.__class__ is minillm.GPT2Config:
        with pytest.raises(UserError, match="has a table of positions"):
            continued(model=dict(context_length=2 * context), extend_with="yarn")
        return
    run = continued(model=dict(context_length=2 * context), extend_with="yarn")
    losses = losses_of(run)
    assert min(losses[1:]) < losses[0]
    opened, resumed = minillm.from_pretrained(run.folder), resume_run(run.folder)
    for config in (opened.config, resumed.model.config):
        assert config.context_length == 2 * context and config.rope_scaling.title == f"yarn by 2, from {context} tokens"
    resumed.claim.release()


def test_a_longer_context_needs_a_model_and_no_adapter(continued):
    with pytest.raises(UserError, match="--extend-with gives a longer context to a model that exists"):
        TrainingSettings(extend_with="yarn")
    with pytest.raises(UserError, match="--extend-with changes the model, .* add --merge"):
        continued(extend_with="yarn", lora_rank=2)


@pytest.mark.parametrize("merge", [False, True])
def test_lora_runs(tmp_path, base, continued, merge):
    run = continued(lora_rank=2, merge=merge)
    assert all("lora_" in name for name in run.optimizer.parameters)
    losses = losses_of(run)
    assert losses[0] == pytest.approx(base.progress.best_val_loss, rel=1e-6) and min(losses) < losses[0]
    assert (run.folder / "model.safetensors").exists() == merge
    assert (run.folder / "adapter_model.safetensors").exists() != merge
    opened = minillm.from_pretrained(run.folder)
    assert evaluate_model(opened, run.examples.tokens["validation"], 6, 5).loss == pytest.approx(min(losses), rel=1e-6)
    assert minillm.from_pretrained(base.folder).lora is None
    if not merge:
        adapter = (run.folder / "adapter_model.safetensors").stat().st_size
        assert adapter < (base.folder / "model.safetensors").stat().st_size


def test_interrupted_and_resumed_is_the_same_bit_for_bit(continued):
    whole, parts = continued("whole", lora_rank=2), continued("parts", lora_rank=2)
    train(whole)
    train(parts, stop_after=7)
    parts = resume_run(parts.folder)
    train(parts)
    for name, parameter in whole.model.parameters().items():
        assert (parameter.value == parts.model.parameters()[name].value).all(), name


def test_frozen_weights_stay(base, continued):
    pattern = "*embed_tokens*" if isinstance(base.model, minillm.Llama) else "*wte*"
    run = continued(freeze=(pattern,))
    train(run)
    started = minillm.from_pretrained(base.folder).parameters()
    for name, parameter in resume_run(run.folder).model.parameters().items():
        assert (parameter.value == started[name].value).all() == parameter.frozen, name
        assert parameter.frozen == ("embed_tokens" in name or "wte" in name)


def test_a_shorter_context(base, continued):
    run = continued(model=dict(context_length=4), lora_rank=1)
    train(run)
    assert run.load_model().config.context_length == 4


@pytest.mark.parametrize(
    "settings, model, message",
    [
        (dict(), dict(n_layer=3), "--n-layer: the shape of a model that is continued from stays as it is"),
        (dict(init="", lora_rank=2), None, "name it with --init"),
        (dict(merge=True), None, "give their rank with --lora-rank"),
        (dict(freeze=("nothing",)), None, "matches no parameter"),
        (dict(init="/nowhere"), None, "/nowhere is not a folder"),
        (dict(), dict(context_length=100), "made for 8 tokens"),
    ],
)
def test_what_cannot_be_continued(continued, tmp_path, settings, model, message):
    with pytest.raises(UserError, match=message):
        continued("refused", model, **settings)
    assert not (tmp_path / "refused").exists()


def test_a_tokenizer_that_is_too_large(base, continued, tmp_path):
    shutil.copytree(base.folder, tmp_path / "wrong")
    path = tmp_path / "wrong" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["é"] = len(tokenizer["model"]["vocab"])
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="its tokenizer has .* tokens, its model has"):
        continued(init=str(tmp_path / "wrong"))
