"""A model that was changed trains, writes and is kept as what it is: changed_models.py has the changes."""

import logging

import changed_models
import numpy as np
import pytest
from changed_models import CHANGES, CONTEXT, VOCABULARY, WITH_CACHE, CausalConv, ConvBlock, gpt2, llama
from planting import assert_close

import minillm
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.generation import decoder as decoding
from minillm.generation.beam_search import beam_search
from minillm.generation.contrastive_search import contrastive_search
from minillm.generation.decoder import Decoder, left_padded, reader
from minillm.generation.score import score_text
from minillm.generation.speculative import PromptLookup, speculative_generate
from minillm.inspection.recording import record
from minillm.layers import mlp
from minillm.layers.attention import CausalSelfAttention
from minillm.layers.mlp import MLP
from minillm.models.fine_tuning import LoRA, add_lora, merged, with_settings
from minillm.models.gpt2 import ResidualBlock
from minillm.models.structure import difference
from minillm.sampler.probability import log_softmax
from minillm.training.data_parallel import DataParallel

GREEDY = minillm.Sampler(temperature=0)
changes = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


def ids_of(*shape):
    return stream("test", "changed models").integers(VOCABULARY, shape)


def greedy(model, text: list[int], count: int) -> list[int]:
    """The likeliest tokens by `forward`, over what a decoder shows: at a full context the oldest quarter is forgotten."""
    visible, written = list(text), []
    for _ in range(count):
        written.append(int(model.forward(np.array([visible]))[0, -1].argmax()))
        visible = visible[CONTEXT // 4 :] if len(visible) == CONTEXT else visible
        visible.append(written[-1])
    return written


def tokens(iterator) -> list[list[int]]:
    return np.array(list(iterator)).T.tolist()


# ------------------------------------------------------------------------------------------------------------- writing


@changes
def test_writes_by_its_own_forward(change):
    """Token for token, beyond the context, in a batch of unequal prompts; and it is left in training, with what it saved."""
    model = change().eval()
    prompts = [[1, 2, 3], [4], [5, 6]]
    expected = [greedy(model, prompt, 20) for prompt in prompts]
    model.train()
    model.loss(ids_of(2, CONTEXT), ids_of(2, CONTEXT), rng_key=(0,))
    assert tokens(minillm.generate(model, np.array(prompts[:1]), 20, GREEDY)) == expected[:1]
    ids, padding = left_padded(prompts)
    together = tokens(minillm.generate(model, ids, 5, GREEDY, padding=padding))
    assert together == [row[:5] for row in expected]
    assert all(layer.training for _, layer in model.layers())
    model.backward()


@changes
def test_every_way_of_writing(change):
    model, prompt = change().eval(), [1, 2, 3, 1, 2]
    expected = greedy(model, prompt, 9)
    for draft in (PromptLookup(), gpt2()):
        texts = speculative_generate(model, np.array([prompt]), 9, draft=draft, lookahead=2, sampler=GREEDY)
        assert tokens(texts) == [expected]
    (best,), _ = beam_search(model, np.array([prompt, prompt]), 2, beams=VOCABULARY, early_stopping="never")
    others = np.argwhere(np.ones((VOCABULARY, VOCABULARY)))  # all texts of two tokens
    texts = np.concatenate([np.repeat([prompt], len(others), axis=0), others], axis=1)
    log_p = log_softmax(model.forward(texts[:, :-1])[:, -2:].reshape(-1, VOCABULARY)).reshape(-1, 2, VOCABULARY)
    totals = np.take_along_axis(log_p, others[..., None], axis=-1).sum(axis=(1, 2))
    assert best.ids == others[totals.argmax()].tolist()
    assert_close(score_text(model, prompt, best.ids)[0].sum(), totals.max())


@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_model_as_it_was_made_keeps_its_cache(make):
    for model in (make(), make(dropout=0.1), make(tie_embeddings=True), make(tie_embeddings=False)):
        assert difference(model) is None and Decoder(model).why_whole is None
        add_lora(model, LoRA(2))
        assert Decoder(model).why_whole is None and Decoder(merged(model)).why_whole is None
        assert Decoder(model.replica("float32")).why_whole is None


@changes
def test_what_is_read_is_counted_as_with_a_cache(change):
    model, plain, ids = change().eval(), gpt2(), ids_of(2, 30)
    decoder, cached = Decoder(model), Decoder(plain)
    assert (decoder.why_whole is None) == (change in WITH_CACHE)
    at = 0
    for count in (3, 1, 4, 1, 2, 1, 5):  # the context is full, and slides, more than once
        logits = decoder.read_last(ids[:, at : at + count], count)
        cached.read(ids[:, at : at + count])
        at += count
        assert (decoder.visible, decoder.remaining) == (cached.visible, cached.remaining)
        seen = ids[:, at - decoder.visible : at]
        assert_close(logits, model.forward(seen)[:, -count:])
    decoder.truncate(2)
    decoder.reorder([1, 0, 1])
    seen = np.concatenate([ids[:, at - decoder.visible - 2 : at - 2], [[7], [7]]], axis=1)[[1, 0, 1]]
    assert_close(decoder.read(np.array([[7], [7], [7]])), model.forward(seen)[:, -1])


@changes
def test_contrastive_search_needs_vectors_below_the_head(change):
    """They are the head's input; a `forward` of its own has none that are known."""
    model, ids = change().eval(), np.array([[1, 2, 3], [4, 5, 6]])
    if "forward" in vars(model) or type(model).forward is not minillm.GPT2.forward:
        with pytest.raises(UserError, match="computes its logits in a forward of its own"):
            next(contrastive_search(model, ids, 3))
        return
    decoder = Decoder(model)
    x = decoder.hidden(ids)
    assert_close(decoder.logits(x[:, 1]), model.forward(ids)[:, 1])
    x = decoder.hidden(ids[:, :2])
    assert x.shape[1] == 2
    assert_close(decoder.logits(x[:, 1]), model.forward(np.concatenate([ids, ids[:, :2]], axis=1))[:, -1])
    greedy_by_contrast = tokens(contrastive_search(model, ids[:1], 12, penalty_alpha=0.0))
    assert greedy_by_contrast == [greedy(model, [1, 2, 3], 12)]
    rows = tokens(contrastive_search(model, *left_padded([[1, 2, 3], [4]])[:1], 4, padding=np.array([0, 2])))
    assert rows[1] == tokens(contrastive_search(model, np.array([[4]]), 4))[0]


def test_a_layer_that_decodes_computes_each_token_once():
    """Where its neighbour cannot decode, the same layer computes all tokens for each new one."""
    model = changed_models.added_layer_that_decodes().eval()
    conv = model.transformer.h[1].conv
    assert tokens(minillm.generate(model, np.array([[1, 2, 3]]), 5, GREEDY)) == [greedy(model, [1, 2, 3], 5)]
    by_greedy = 3 + 4 + 5 + 6 + 7
    assert conv.columns == (by_greedy, 3 + 4)
    model.transformer.h[0].mlp.forward = model.transformer.h[0].mlp.forward  # exchanged, for all that is known
    conv.columns = 0, 0
    assert tokens(minillm.generate(model, np.array([[1, 2, 3]]), 5, GREEDY)) == [greedy(model, [1, 2, 3], 5)]
    assert conv.columns == (2 * by_greedy, 0)


def test_it_is_said_once(caplog):
    model = changed_models.added_layer()
    decoding._noted.clear()
    with caplog.at_level(logging.WARNING, "minillm"):
        for _ in range(2):
            list(minillm.generate(model, ids_of(1, 3), 2))
    (record,) = caplog.records
    assert "without a cache: its layer transformer.h.1 is a ConvBlock, which has no decode" in record.getMessage()


def test_anything_that_gives_logits_writes():
    class Other:
        config = gpt2().config

        def next_token_logits(self, ids):
            return np.eye(VOCABULARY)[(ids[:, 0] + ids.shape[1]) % VOCABULARY]

    read, (ids, padding) = reader(Other()), left_padded([[1, 2, 3], [4]])
    assert read(ids, padding).argmax(axis=-1).tolist() == [4, 5]
    assert read(np.array([[0], [0]])).argmax(axis=-1).tolist() == [5, 6]
    assert beam_search(Other(), np.array([[1, 2, 3]]), 3)[0][0].ids == [4, 5, 6]
    looked_up = speculative_generate(Other(), np.array([[1, 2, 1, 2]]), 3, draft=PromptLookup(), sampler=GREEDY)
    assert tokens(looked_up) == [[5, 6, 7]]
    with pytest.raises(UserError, match="Other computes its logits in a forward of its own"):
        next(contrastive_search(Other(), ids, 1))


# ---------------------------------------------------------------------------------------------- exchanged code, one by one


def doubled(function):
    return lambda *arguments, **settings: 2 * function(*arguments, **settings)


def doubled_first(function):
    def operation(*arguments):
        y, saved = function(*arguments)
        return 2 * y, saved

    return operation


@pytest.mark.parametrize(
    "owner, name, exchange",
    [
        (MLP, "forward", doubled),
        (CausalSelfAttention, "forward", doubled),
        (minillm.GPT2, "forward", doubled),
        (minillm.GPT2, "_logits", doubled),
        (minillm.GPT2, "next_token_logits", lambda function: lambda self, ids: -function(self, ids)),
        (mlp, "gelu_forward", doubled_first),
    ],
)
def test_code_that_is_exchanged(monkeypatch, owner, name, exchange):
    model, ids = gpt2().eval(), ids_of(1, 3)
    before = Decoder(model).read(ids)
    monkeypatch.setattr(owner, name, exchange(getattr(owner, name)), raising=False)
    assert name in difference(model)
    after = Decoder(model).read(ids)
    assert_close(after, model.next_token_logits(ids))
    assert abs(after - before).max() > 1e-3
    if name != "next_token_logits":
        assert_close(after, model.forward(ids)[:, -1])
    with pytest.raises(UserError, match=name):
        model.save_pretrained("never")


def test_what_training_alone_calls_changes_no_text(monkeypatch):
    """A loss or backward of the user's own: the model is written with, and saved, as before; a run could not be resumed."""

    class Weighted(minillm.GPT2):
        def loss(self, ids, targets, rng_key=None, count=None):
            return 2 * super().loss(ids, targets, rng_key, count)

        def backward(self, dlogits=None):
            super().backward(dlogits)

    model = gpt2(Weighted)
    assert difference(model) is None and "Weighted" in difference(model, training=True)
    monkeypatch.setattr(minillm.GPT2, "loss", doubled(minillm.GPT2.loss), raising=False)
    monkeypatch.setattr(MLP, "backward", doubled(MLP.backward))
    assert difference(gpt2(), training=True) is None


def test_names_that_change_nothing():
    class Described(minillm.GPT2):
        """It has a method more."""

        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            self.note = "mine"

        def _make_body(self):
            return super()._make_body()

        def size(self):
            return sum(parameter.value.size for parameter in self.parameters().values())

    assert difference(gpt2(Described)) is None


# ------------------------------------------------------------------------------------------------------------- training


def gradients(model, workers, ids, targets):
    """The loss of the last of two batches, and the sum of their gradients."""
    with DataParallel(model.train(), workers) as parallel:
        for step in range(2):
            loss = parallel.loss_and_gradients(ids, targets, rng_key=("changed", step))
        measured = parallel.loss(ids, targets)
    assert_close(measured, model.eval().loss(ids, targets))
    return loss, {name: parameter.grad for name, parameter in model.parameters().items()}


@changes
def test_workers_give_the_gradients_of_one(change):
    ids, targets = ids_of(5, CONTEXT), ids_of(5, CONTEXT)[::-1]
    loss, expected = gradients(change(), 1, ids, targets)
    for workers in (2, 3):
        their_loss, found = gradients(change(), workers, ids, targets)
        assert_close(their_loss, loss)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert_close(gradient, expected[name])


@changes
def test_gradients_are_those_of_what_forward_computes(change):
    model, ids, targets = change(), ids_of(2, CONTEXT), ids_of(2, CONTEXT)[::-1]
    key = ("changed", 0)
    model.train().loss(ids, targets, key)
    model.backward()
    for parameter in model.parameters().values():
        place = tuple(np.argwhere(abs(parameter.grad) == abs(parameter.grad).max())[0])
        before, losses = parameter.value[place], []
        for step in (1e-5, -1e-5):
            parameter.value[place] = before + step
            logits = model.forward(ids, key)
            shifted = logits - logits.max(axis=-1, keepdims=True)
            log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
            losses.append(-np.take_along_axis(log_p, targets[..., None], axis=-1).mean())
        parameter.value[place] = before
        assert_close(parameter.grad[place], (losses[0] - losses[1]) / 2e-5, 1e-6)


@changes
def test_a_replica_shares_the_weights_and_nothing_that_changes(change):
    model = change().train()
    model.loss(ids_of(1, 4), ids_of(1, 4), rng_key=(0,))
    copy = model.replica()
    mine, theirs = model.parameters(), copy.parameters()
    assert list(mine) == list(theirs)
    for name, parameter in mine.items():
        assert theirs[name] is not parameter and theirs[name].value is parameter.value and theirs[name].grad is None
    assert not {id(layer) for _, layer in model.layers()} & {id(layer) for _, layer in copy.layers()}
    assert all(layer._saved is None for _, layer in copy.layers())
    assert [path for path, _ in model.layers()] == [path for path, _ in copy.layers()]
    assert_close(copy.eval().forward(ids_of(1, 4)), model.eval().forward(ids_of(1, 4)))


def test_a_replica_of_lists_dicts_and_frozen_weights():
    model = gpt2()
    add_lora(model, LoRA(2))
    model.transformer.h[0].extra = {"inner": [CausalConv(), (CausalConv(),)], "constant": np.ones(3)}
    copy = model.replica()
    extra, theirs = model.transformer.h[0].extra, copy.transformer.h[0].extra
    assert theirs["inner"][0] is not extra["inner"][0] and theirs["inner"][1][0] is not extra["inner"][1][0]
    assert theirs["inner"][1][0].weight.value is extra["inner"][1][0].weight.value
    assert theirs["constant"] is extra["constant"] and copy.config is model.config
    frozen = {name for name, parameter in copy.parameters().items() if parameter.frozen}
    assert frozen == {name for name, parameter in model.parameters().items() if parameter.frozen} != set()
    assert copy.lm_head.weight is copy.transformer.wte.weight is copy.loss_head.weight


def test_functions_at_module_level_are_copied(monkeypatch):
    """As in a script: the function finds the method that was there by a global name."""
    model = gpt2()
    space = {"block": model.transformer.h[0], "plain": model.transformer.h[0].forward}
    exec("def forward(x, key=None):\n    return plain(x, key) + block.ln_1.weight.value", space)
    model.transformer.h[0].forward = space["forward"]
    copy = model.replica()
    globals_of_copy = copy.transformer.h[0].forward.__globals__
    assert (
        globals_of_copy["block"] is copy.transformer.h[0] and globals_of_copy["plain"].__self__ is copy.transformer.h[0]
    )
    assert model.transformer.h[0].forward.__globals__ is space and space["block"] is model.transformer.h[0]


def test_layers_that_are_not_the_models_are_refused():
    model, conv = gpt2(), CausalConv()
    norm = model.transformer.ln_f
    plain = norm.forward
    norm.forward = lambda x: conv.forward(plain(x))
    with pytest.raises(UserError, match=r"transformer.ln_f.forward uses a CausalConv that is no part of the model"):
        DataParallel(model, 2)
    DataParallel(model, 1)

    class Hidden(MLP):
        def forward(self, x):
            return conv.forward(super().forward(x))

    model = gpt2()
    model.transformer.h[0].mlp = Hidden(model.transformer.h[0].mlp.c_fc, model.transformer.h[0].mlp.c_proj)
    with pytest.raises(UserError, match=r"Hidden.forward uses a CausalConv that is no attribute of its layer"):
        DataParallel(model, 2)


def test_a_forward_without_its_backward_is_refused():
    class Halved(minillm.GPT2):
        def forward(self, ids, key=None):
            return super().forward(ids, key) / 2

    model, ids = gpt2(Halved).train(), ids_of(2, 4)
    with pytest.raises(UserError, match="forward of Halved is overridden and gives other logits, but backward is not"):
        model.loss(ids, ids)
    assert_close(model.eval().loss(ids, ids), minillm_loss(model.forward(ids), ids))
    model = gpt2()
    forward, backward = model.forward, model.backward
    model.forward = lambda ids, key=None: forward(ids, key) / 2
    model.backward = lambda dlogits=None: backward(dlogits / 2)
    with pytest.raises(UserError, match="backward was exchanged on the model"):
        model.loss(ids, ids)


def minillm_loss(logits, targets):
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], axis=-1).mean()


def test_a_loss_that_cannot_be_cut_is_refused():
    class Own(minillm.GPT2):
        def loss(self, ids, targets):
            return super().loss(ids, targets)

    with pytest.raises(UserError, match="loss of Own takes no .ids, targets, rng_key, count."):
        DataParallel(gpt2(Own), 2)


def test_layers_that_were_added_have_masks_of_their_own():
    model = changed_models.added_dropout().train()
    model.loss(ids_of(1, 4), ids_of(1, 4), rng_key=(0,))
    names = [layer.name for _, layer in model.layers() if hasattr(layer, "batch_offset")]
    assert len(set(names)) == len(names) and "h.1.mlp_resid_dropout.parts.0" in names


@changes
def test_what_is_inspected_is_the_changed_model(change):
    model, ids = change(), ids_of(1, 6)
    for _, layer in model.layers():
        if hasattr(layer, "p"):
            layer.p = 0.0
    recorded = record(model, ids, ids)
    assert_close(recorded.loss, model.eval().loss(ids, ids))
    assert all(tensor.gradient is not None for tensor in recorded.parameters)


# --------------------------------------------------------------------------------------------------------------- saving


@changes
def test_saving_is_refused_by_name_or_kept_by_the_same_code(change, tmp_path):
    model, ids = change().eval(), ids_of(2, 5)
    with pytest.raises(UserError, match="minillm.save_parameters") as refused:
        model.save_pretrained(tmp_path / "folder")
    assert difference(model) in str(refused.value)
    assert not (tmp_path / "folder").exists()
    with pytest.raises(UserError, match="cannot be given another configuration"):
        with_settings(model, dropout=0.1)
    minillm.save_parameters(model, tmp_path / "mine.safetensors")
    again = change().eval()
    for parameter in again.parameters().values():
        parameter.value = parameter.value + 1
    minillm.load_parameters(again, tmp_path / "mine.safetensors")
    assert_close(again.forward(ids), model.forward(ids))
    with pytest.raises(UserError, match="is of another model: at "):
        minillm.load_parameters(gpt2(n_layer=3), tmp_path / "mine.safetensors")


def test_parameters_of_another_model_are_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    minillm.save_parameters(changed_models.subclassed_mlp(), path)
    with pytest.raises(UserError, match="at transformer.h.0.mlp the file's model has layer your class SquaredReLU"):
        minillm.load_parameters(gpt2(), path)
    minillm.save_parameters(gpt2(), path)
    wider = gpt2(d_ff=12)
    before = wider.parameters()["transformer.h.0.mlp.c_fc.weight"].value
    with pytest.raises(
        UserError, match=r"transformer.h.0.mlp.c_fc.weight the file's model has tensor of shape \(8, 32\)"
    ):
        minillm.load_parameters(wider, path)
    assert wider.parameters()["transformer.h.0.mlp.c_fc.weight"].value is before
    gpt2().save_pretrained(tmp_path)
    path.replace(tmp_path / "theirs.safetensors")
    with pytest.raises(UserError, match="was not written by minillm.save_parameters"):
        minillm.load_parameters(gpt2(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="missing"):
        minillm.load_parameters(gpt2(), tmp_path / "none.safetensors")
    (tmp_path / "theirs.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="model.safetensors was written by minillm.save_parameters"):
        minillm.from_pretrained(tmp_path)


def test_lora_of_a_changed_model_is_merged():
    model = changed_models.added_layer()
    add_lora(model, LoRA(2))
    for name, parameter in model.parameters().items():
        if name.endswith("lora_B"):
            parameter.value += 0.1
    ids = ids_of(1, 5)
    plain = merged(model)
    assert not any("lora" in name for name in plain.parameters()) and isinstance(plain.transformer.h[1], ConvBlock)
    assert_close(plain.eval().forward(ids), model.eval().forward(ids))


def test_block_order_is_saved(tmp_path):
    """Blocks in another order are the model of their configuration, with other weights at each place."""
    model, ids = gpt2().eval(), ids_of(1, 5)
    model.transformer.h.reverse()
    model.save_pretrained(tmp_path)
    assert_close(minillm.from_pretrained(tmp_path, "float64").forward(ids), model.forward(ids))
    assert Decoder(model).why_whole is None
    assert type(model.transformer.h[0]) is ResidualBlock
