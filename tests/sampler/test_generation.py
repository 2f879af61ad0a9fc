import numpy as np
import pytest

import minillm
from minillm.errors import UserError
from minillm.gradcheck_catalogue import randomised

CONFIG = minillm.GPT2Config(vocab_size=11, context_length=6, n_layer=1, n_head=2, d_model=8, dropout=0.2)


def test_greedy_generation_takes_the_likeliest_token_each_time():
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    written = list(minillm.generate(model, ids, 8, minillm.Sampler(temperature=0)))
    assert model.training  # as before; dropout was off meanwhile
    model.eval()
    for token in written:
        assert (token == model.forward(ids[:, -6:])[:, -1].argmax(axis=-1)).all()
        ids = np.concatenate([ids, token[:, None]], axis=1)


def test_the_same_seed_writes_the_same():
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    runs = [[t.tolist() for t in minillm.generate(model, [[1]], 20, minillm.Sampler(seed=s))] for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    "ids, message", [([[]], "at least one token"), ([1, 2], "at least one token"), ([[11]], "is 11, outside")]
)
def test_unusable_prompts(ids, message):
    with pytest.raises(UserError, match=message):
        list(minillm.generate(model := minillm.GPT2(CONFIG), np.array(ids, int), 1))
    assert model.training
