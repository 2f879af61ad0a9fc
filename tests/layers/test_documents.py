"""Packed documents: what starts are, and layers that do not take them."""

import functools

import numpy as np
import pytest

import minillm
from minillm.backend.arrays import to_device
from minillm.checks.cases import DOCUMENTS, check_gradients
from minillm.checks.gradcheck import TOLERANCE
from minillm.errors import UserError
from minillm.layers.documents import check_starts, packed_starts
from minillm.layers.layer import Layer
from minillm.models.gpt2 import ResidualBlock

CONFIG = minillm.GPT2Config(vocab_size=11, context_length=8, n_layer=2, n_head=2, d_model=8)
IDS = np.arange(12).reshape(2, 6) % 11
STARTS = np.stack([packed_starts(lengths, 6) for lengths in ([2, 4], [1, 2])])


@pytest.mark.parametrize("problem", DOCUMENTS.gradcheck, ids=str)
def test_gradients_of_a_model(problem):
    report = check_gradients(DOCUMENTS, problem)
    assert report.rows and report.worst.error <= TOLERANCE == 1e-6, str(report)


# ------------------------------------------------------------------------------------------------------------- starts


def test_starts_of_lengths():
    assert packed_starts([2, 3], 6).tolist() == [0, 0, 2, 2, 2, 5]
    assert packed_starts([2, 3], 5).tolist() == [0, 0, 2, 2, 2]
    assert packed_starts([], 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64"])
def test_starts_become_int32(dtype):
    found = check_starts(STARTS.astype(dtype), (2, 6))
    assert found.dtype == np.int32 and (found == STARTS).all()
    assert check_starts(STARTS.tolist(), (2, 6)).tolist() == STARTS.tolist()


@pytest.mark.parametrize(
    "starts, message",
    [
        ([[0, 0, 2]], r"shape of the ids, \(1, 4\), not int64 of shape \(1, 3\)"),
        ([0, 0, 2, 2], r"not int64 of shape \(4,\)"),
        ([[0.0, 0, 2, 2]], "whole numbers .* not float64"),
        ([[False, False, True, True]], "not bool"),
        ([[0, 0, 3, 3]], r"starts\[0, 2\] is 3: a document that has token 2 begins at one of the tokens 0 to 2"),
        ([[-1, 0, 2, 2]], r"starts\[0, 0\] is -1: .* begins at one of the tokens 0 to 0"),
        ([[1, 1, 2, 2]], r"starts\[0, 0\] is 1"),
        ([[0, 0, 2, 0]], r"starts\[0, 3\] is 0: the document before it begins at 2, and documents follow each other"),
        ([[0, 0, 2, 1]], r"starts\[0, 3\] is 1: the document before it begins at 2"),
        ([[0, 0, 0, 2]], r"starts\[0, 3\] is 2: .* this number from token 2 on, and here it was 0"),
        ([[0, 0, 1, 1]], r"starts\[0, 2\] is 1: .* from token 1 on"),
    ],
)
def test_what_are_no_starts_is_refused(starts, message):
    with pytest.raises(UserError, match=message):
        check_starts(np.array(starts), (1, 4))
    with pytest.raises(UserError, match=message):
        minillm.GPT2(CONFIG).loss(IDS[:1, :4], IDS[:1, :4], starts=np.array(starts))


def test_starts_of_a_device_are_looked_at_by_their_shape():
    starts = check_starts(to_device(STARTS.astype(np.int64), "cudasim"), (2, 6))
    assert starts.dtype == np.int32
    with pytest.raises(UserError, match="shape of the ids"):
        check_starts(starts, (2, 5))


# ------------------------------------------------------------------------------------------------- layers of your own


class PlainBlock(ResidualBlock):
    """A block as people write it, without starts."""

    def forward(self, x, rng_key=None):
        return super().forward(x, rng_key)


class HandingOn(ResidualBlock):
    def forward(self, x, rng_key=None, *, starts=None):
        return super().forward(x, rng_key, starts=starts)


class Shift(Layer):
    """Each token gets the numbers of the one before it."""

    def forward(self, x, rng_key=None):
        return np.roll(x, 1, axis=1)

    def backward(self, dy):
        return np.roll(dy, -1, axis=1)


class Doubling(Layer):
    per_token = True

    def forward(self, x, rng_key=None):
        return 2 * x

    def backward(self, dy):
        return 2 * dy


def model_with(change):
    model = minillm.GPT2(CONFIG, dtype="float64")
    change(model.transformer.h, model)
    return model


def exchanged_class(kind):
    return lambda blocks, model: setattr(blocks[1], "__class__", kind)


def exchanged_forward(blocks, model):
    plain = blocks[0].forward
    blocks[0].forward = lambda x, rng_key=None: 2 * plain(x, rng_key)


REFUSED = {
    "a class": (exchanged_class(PlainBlock), r"transformer\.h\.1 is a PlainBlock, whose forward takes no starts"),
    "a function": (exchanged_forward, r"transformer\.h\.0 is a ResidualBlock, whose forward takes no starts"),
    "a block": (lambda blocks, model: blocks.append(Shift()), r"transformer\.h\.2 is a Shift"),
    "attention": (lambda blocks, model: setattr(blocks[0], "attn", Shift()), r"transformer\.h\.0\.attn is a Shift"),
    "an MLP": (lambda blocks, model: setattr(blocks[1], "mlp", Shift()), r"transformer\.h\.1\.mlp is a Shift"),
    "the body": (lambda blocks, model: setattr(model, "transformer", Shift()), r"transformer is a Shift"),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED)
def test_a_layer_that_takes_no_starts_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        model_with(change).loss(IDS, IDS, starts=STARTS)


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "the body"])
def test_without_starts_it_is_called_as_before(name):
    model = model_with(REFUSED[name][0])
    assert np.isfinite(model.loss(IDS, IDS))
    model.backward()


def one_document_a_row(model):
    """Whether a model gives packed documents the losses that they have in rows of their own."""
    logits = model.eval().forward(IDS, starts=STARTS)
    alone = np.concatenate([model.forward(IDS[:1, :2]), model.forward(IDS[:1, 2:])], axis=1)
    return np.abs(logits[:1] - alone).max() < 1e-12


@pytest.mark.parametrize(
    "change",
    [
        exchanged_class(HandingOn),
        lambda blocks, model: blocks.append(Doubling()),
        lambda blocks, model: setattr(blocks[0], "attn", Doubling()),
        lambda blocks, model: setattr(blocks[1], "mlp", Doubling()),
    ],
    ids=["starts are handed on", "a block per token", "attention per token", "an MLP per token"],
)
def test_a_layer_that_takes_them_or_needs_none_works(change):
    assert one_document_a_row(model_with(change))


def test_a_block_that_does_not_hand_starts_on_is_noticed_by_the_comparison():
    class Forgetting(ResidualBlock):
        def forward(self, x, rng_key=None, starts=None):
            return super().forward(x, rng_key)

    assert not one_document_a_row(model_with(exchanged_class(Forgetting)))


def test_an_observed_layer_is_still_ours():
    def observe(blocks, model):
        original = blocks[0].forward
        blocks[0].forward = functools.wraps(original)(lambda *arguments, **settings: original(*arguments, **settings))

    assert one_document_a_row(model_with(observe))


class OwnForward(minillm.GPT2):
    def forward(self, ids, rng_key=None):
        return super().forward(ids, rng_key)


class OwnForwardWithStarts(minillm.GPT2):
    def forward(self, ids, rng_key=None, starts=None):
        return super().forward(ids, rng_key, starts)


def test_a_model_with_a_forward_of_its_own():
    with pytest.raises(UserError, match="forward of OwnForward takes no starts"):
        OwnForward(CONFIG).loss(IDS, IDS, starts=STARTS)
    losses = []
    for kind in (minillm.GPT2, OwnForwardWithStarts):
        model = kind(CONFIG, dtype="float64")
        losses.append(model.loss(IDS, IDS, starts=STARTS))
        model.backward()
        losses.append(model.parameters()["transformer.wpe.weight"].grad)
    assert losses[0] == pytest.approx(losses[2], rel=1e-14)
    np.testing.assert_allclose(losses[1], losses[3], rtol=1e-10, atol=1e-14)
