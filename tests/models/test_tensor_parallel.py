"""Models that ranks share: the same logits, losses and gradients as whole ones, and what is refused by name."""

import numpy as np
import pytest
from planting import assert_close

import minillm
from minillm.checks.ranks import imitated_ranks, together
from minillm.errors import UserError
from minillm.layers import cut, dropout
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.models.mistral import Mistral, MistralConfig
from minillm.models.qwen2 import Qwen2, Qwen2Config
from minillm.models.qwen3 import Qwen3, Qwen3Config
from minillm.models.structure import refuse_changed
from minillm.models.tensor_parallel import tensor_parallel
from minillm.models.whole import gathered

# d_ff and the vocabulary cannot be divided by the ranks.
SHAPE = dict(vocab_size=13, context_length=8, n_layer=2, n_head=4, d_model=16, d_ff=27)
GROUPED = SHAPE | dict(n_kv_head=2)
MODELS = {
    "gpt2": (minillm.GPT2, minillm.GPT2Config(**SHAPE, dropout=0.2)),
    "gpt2, untied, no bias": (minillm.GPT2, minillm.GPT2Config(**SHAPE, tie_embeddings=False, bias=False)),
    "llama": (minillm.Llama, minillm.LlamaConfig(**GROUPED, dropout=0.2, attention_bias=True, mlp_bias=True)),
    "qwen2": (Qwen2, Qwen2Config(**GROUPED)),
    "qwen3": (Qwen3, Qwen3Config(**GROUPED, head_dim=6, tie_embeddings=True)),
    "mistral": (Mistral, MistralConfig(**GROUPED, sliding_window=3)),
}
RNG = np.random.default_rng(0)
IDS, TARGETS = RNG.integers(13, size=(2, 3, 8))
TARGETS[0, 2] = -100
STARTS = np.array([[0, 0, 0, 3, 3, 3, 6, 6]] * 3)
KEY = (1, 2)


def made(name, lora=False):
    """A model with other numbers than its initial ones, in float64."""
    kind, config = MODELS[name]
    model = kind(config, seed=1, dtype="float64")
    if lora:
        add_lora(model, LoRA(2, 3.0))
    for each, parameter in model.parameters().items():
        parameter.value = parameter.value + 0.1 * np.random.default_rng(len(each)).normal(size=parameter.value.shape)
    model.loss_head.label_smoothing = 0.1
    return model


def shared(name, ranks, task, **settings):
    """What task(the part of a model) returns in each rank."""
    return together(imitated_ranks(ranks), lambda own: task(tensor_parallel(made(name, **settings), own)))


def a_step(model, starts=None):
    """The loss, and name -> (gradient, what part it is)."""
    model.train()
    loss = model.loss(IDS, TARGETS, KEY, starts=starts)
    model.backward()
    return float(loss), {name: (p.grad, p.cut) for name, p in model.trainable_parameters().items()}


def whole_step(model, starts=None):
    """As `a_step`, with the whole gradients, and the names of those that no rank has a part of."""
    loss, gradients = a_step(model, starts)
    whole = {name: grad if part is None else part.whole_of(grad) for name, (grad, part) in gradients.items()}
    return loss, whole, [name for name, (_, part) in gradients.items() if part is None]


def assert_same_step(name, ranks, starts=None, recompute=False, **settings):
    expected, gradients = a_step(made(name, **settings), starts)

    def step(model):
        model.body.recompute = recompute
        return whole_step(model, starts)

    results = shared(name, ranks, step, **settings)
    for loss, whole, replicated in results:
        assert loss == pytest.approx(expected, rel=1e-12)
        assert whole.keys() == gradients.keys()
        for each, grad in whole.items():
            assert_close(grad, gradients[each][0])
        assert replicated and all(np.array_equal(whole[each], results[0][1][each]) for each in replicated)


@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_have_the_loss_and_the_gradients_of_one(name, lora):
    assert_same_step(name, 2, lora=lora)


@pytest.mark.parametrize("settings", [{}, {"starts": STARTS}, {"recompute": True}], ids=["", "packed", "recomputed"])
def test_four_ranks(settings):
    assert_same_step("gpt2", 4, **settings)


def test_packed_documents_of_a_llama():
    assert_same_step("llama", 2, starts=STARTS)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_what_is_written_are_those_of_the_whole_model(name):
    def read(model):
        model.eval()
        greedy = minillm.Sampler(temperature=0)
        written = list(minillm.generate(model, IDS[:, :3], max_new_tokens=4, sampler=greedy))
        return model.forward(IDS), model.next_token_logits(IDS), np.array(written), float(model.loss(IDS, TARGETS))

    logits, last, written, loss = read(made(name))
    for found in shared(name, 2, read):
        assert_close(found[0], logits)
        assert_close(found[1], last)
        assert np.array_equal(found[2], written)
        assert found[3] == pytest.approx(loss, rel=1e-12)


def test_the_log_probabilities_of_whole_answers():
    def step(model):
        logp, head = model.train().log_probabilities(IDS, TARGETS, KEY)
        model.backward_log_probabilities(np.array([1.0, -2.0, 0.5]), head)
        gradients = {name: (p.grad, p.cut) for name, p in model.parameters().items()}
        return logp, {name: grad if part is None else part.whole_of(grad) for name, (grad, part) in gradients.items()}

    expected, gradients = step(made("gpt2"))
    for logp, found in shared("gpt2", 2, step):
        assert_close(logp, expected)
        for name, grad in found.items():
            assert_close(grad, gradients[name])


@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_gathered_model_is_the_whole_one(name, lora, tmp_path):
    model = made(name, lora)
    for whole in shared(name, 2, gathered, lora=lora):
        assert whole.sharing is None
        refuse_changed(whole, "be saved")
        assert whole.parameters().keys() == model.parameters().keys()
        for each, parameter in whole.parameters().items():
            assert np.array_equal(parameter.value, model.parameters()[each].value)
            assert parameter.frozen == model.parameters()[each].frozen


def test_a_part_counts_as_the_model_of_its_configuration_and_a_changed_one_does_not():
    def check(model):
        refuse_changed(model, "be trained", training=True)
        block = model.blocks[0]
        block.mlp.c_fc = block.mlp.c_proj
        with pytest.raises(UserError, match="its layer transformer.h.0.mlp.c_fc is RowLinear, not ColumnLinear"):
            refuse_changed(model, "be trained", training=True)

    shared("gpt2", 2, check)


def test_a_part_is_not_saved_as_if_it_were_the_model(tmp_path):
    def save(model):
        with pytest.raises(UserError, match="rank [01] of 2 has a part of the model: gather it first"):
            model.save_pretrained(tmp_path / "model")

    shared("gpt2", 2, save)
    assert not (tmp_path / "model").exists()


def test_each_rank_has_about_its_share_of_the_weights():
    sizes = shared("gpt2", 4, lambda model: sum(p.value.size for p in model.parameters().values()))
    model = made("gpt2")
    whole = sum(p.value.size for p in model.parameters().values())
    replicated = sum(p.value.size for name, p in model.parameters().items() if _is_whole(name))
    assert sum(sizes) == whole + 3 * replicated


def _is_whole(name) -> bool:
    return "ln_" in name or "wpe" in name or name.endswith("c_proj.bias")


def test_what_a_step_exchanges():
    """For each block two sums of (B, T, C) forward and two backward, one for the token table, one for the head."""
    world = imitated_ranks(2)
    together(world, lambda own: a_step(tensor_parallel(made("gpt2"), own)))
    whole, rows = IDS.size * 16, IDS.size
    assert [world[0].exchanged.count(each) for each in (("sum", whole), ("maximum", rows), ("sum", 3 * rows))] == [
        *(2 * 4 + 2, 1, 1)
    ]
    assert len(world[0].exchanged) == 2 * 4 + 4


# ------------------------------------------------------------------------------------------------------ refused by name


@pytest.mark.parametrize(
    "name, ranks, message",
    [
        (
            "gpt2",
            3,
            r"--tensor-parallel 3: so many ranks cannot share the 4 heads of h.0.attn equally; 1, 2 or 4 would",
        ),
        ("llama", 4, r"cannot share the 2 key/value heads of layers.0.self_attn equally; 1 or 2 would fit"),
    ],
)
def test_heads_that_cannot_be_shared_equally(name, ranks, message):
    with pytest.raises(UserError, match=message):
        shared(name, ranks, lambda model: None)


def test_fewer_channels_than_ranks():
    def make(communicator):
        return tensor_parallel(minillm.GPT2(minillm.GPT2Config(**SHAPE | dict(d_ff=3)), seed=1), communicator)

    with pytest.raises(UserError, match="--tensor-parallel 4: h.0.mlp.c_fc has 3 parts to share out, fewer than ranks"):
        together(imitated_ranks(4), make)


def test_a_part_is_not_shared_again():
    def again(communicator):
        tensor_parallel(tensor_parallel(made("gpt2"), communicator), communicator)

    with pytest.raises(UserError, match="the model is the part of a rank already, one of 2"):
        together(imitated_ranks(2), again)


def test_one_rank_keeps_the_model_as_it_is():
    (communicator,) = imitated_ranks(1)
    model = made("gpt2")
    assert tensor_parallel(model, communicator) is model and model.sharing is None


# ------------------------------------------------------------------------------------------------------ planted faults


def _one_group(self, layer, *names, unit=1, groups=1):
    """q, k and v cut as if they were one: a rank has the queries of all heads, and few of the keys."""
    return COLUMNS(self, layer, *names, unit=unit)


COLUMNS = minillm.models.tensor_parallel.Sharing.columns


def test_heads_that_are_cut_as_one_matrix_are_noticed(monkeypatch):
    monkeypatch.setattr(minillm.models.tensor_parallel.Sharing, "columns", _one_group)
    with pytest.raises(AssertionError):
        assert_same_step("gpt2", 2)


def test_masks_of_other_heads_are_noticed(monkeypatch):
    monkeypatch.setattr(dropout.HeadsDropout, "settings", dropout.Dropout.settings)
    with pytest.raises(AssertionError):
        assert_same_step("gpt2", 2)


def test_parts_put_to_the_wrong_places_are_noticed(monkeypatch):
    monkeypatch.setattr(cut.Cut, "put", lambda self, part, whole: whole[..., : part.shape[-1]].fill(1))
    with pytest.raises(AssertionError):
        assert_same_step("gpt2", 2)
