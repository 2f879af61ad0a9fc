import numpy as np
import pytest

import minillm
from minillm.checks.cases import randomised
from minillm.errors import UserError
from minillm.generation.decoder import left_padded
from minillm.generation.generate import FINISHED

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


def test_a_text_is_no_prompt():
    with pytest.raises(
        UserError, match=r"the prompt is the text 'hello': give ids, np.array\(\[tokenizer.encode\(text\)\]\)"
    ):
        next(minillm.generate(minillm.GPT2(CONFIG, seed=0), "hello", 3))


def test_rows_end_by_themselves():
    """A row yields its end token, then FINISHED; the others go on as if it were not there; after the last one it is over."""
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    free = np.array(list(minillm.generate(model, [[1], [2], [3]], 6, minillm.Sampler(seed=3))))  # (n, B)
    end = (int(free[1, 0]), int(free[3, 1]))
    written = np.array(list(minillm.generate(model, [[1], [2], [3]], 6, minillm.Sampler(seed=3), eos_ids=end)))
    for row in range(3):
        ends = np.flatnonzero(np.isin(free[:, row], end))
        stop = ends[0] + 1 if len(ends) else len(free)
        assert (written[:stop, row] == free[:stop, row]).all()
        assert (written[stop:, row] == FINISHED).all()
    assert (written[:, 0] == FINISHED).sum() >= len(written) - 2  # row 0 did end early


def test_generation_is_over_when_all_rows_are():
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    first = next(minillm.generate(model, [[1], [1]], 1, minillm.Sampler(temperature=0)))
    written = list(minillm.generate(model, [[1], [1]], 9, minillm.Sampler(temperature=0), eos_ids=set(first.tolist())))
    assert len(written) == 1


def test_the_caller_can_end_a_row():
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    over = np.zeros(2, bool)
    written = []
    for token in minillm.generate(model, [[1], [2]], 5, over=over):
        written.append(token.tolist())
        over[0] = True
    assert [row[0] for row in written[1:]] == [FINISHED] * 4 and all(row[1] >= 0 for row in written)


def test_prompts_of_unequal_length():
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    ids, padding = left_padded([[1, 2, 3], [4]])
    together = np.array(list(minillm.generate(model, ids, 3, minillm.Sampler(0), padding=padding)))
    for row, prompt in enumerate([[1, 2, 3], [4]]):
        alone = np.array(list(minillm.generate(model, [prompt], 3, minillm.Sampler(0))))
        assert (together[:, row] == alone[:, 0]).all()


def test_penalties_see_prompt_and_text():
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    sampler = minillm.Sampler(temperature=0, no_repeat_ngram=1)
    ids = [3, 1, *(int(t[0]) for t in minillm.generate(model, [[3, 1]], 9, sampler))]
    assert sorted(ids) == list(range(11))  # no token twice, so all of them
    sampler = minillm.Sampler(temperature=0, presence_penalty=1e9)  # of the text only: the prompt's may come
    written = [int(t[0]) for t in minillm.generate(model, [[3, 1]], 11, sampler)]
    assert sorted(written) == list(range(11))


def test_padding_is_no_part_of_the_history():
    """Not seen, and not counted as prompt: in a batch of unequal prompts penalties and positions are each row's own."""
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    prompts = [[1, 2, 3], [4]]
    ids, padding = left_padded(prompts)
    once = minillm.Sampler(temperature=0, no_repeat_ngram=1, forced_tokens={2: 7})
    written = np.array(list(minillm.generate(model, ids, 8, once, padding=padding)))
    assert written[2].tolist() == [7, 7]
    assert sorted(prompts[0] + written[:, 0].tolist()) == list(range(11))
    written = np.array(list(minillm.generate(model, ids, 10, once.with_settings(forced_tokens={}), padding=padding)))
    assert sorted(prompts[1] + written[:, 1].tolist()) == list(range(11))  # 0, which fills the row, among them
    rare = minillm.Sampler(temperature=0, presence_penalty=1e9)
    written = np.array(list(minillm.generate(model, ids, 11, rare, padding=padding)))
    assert all(sorted(row) == list(range(11)) for row in written.T.tolist())


def test_wanted_tokens():
    model = randomised(minillm.GPT2(CONFIG, seed=0))
    sampler = minillm.Sampler(seed=1, forced_tokens={0: 7, 3: 2}, banned_tokens=(5, 7), min_tokens=6, end_tokens=(4,))
    written = [int(t[0]) for t in minillm.generate(model, [[1]], 50, sampler, eos_ids=(4,))]
    assert written[0] == 7 and written[3] == 2 and 5 not in written and 7 not in written[1:]
    assert 4 not in written[:6] and written[-1] == 4  # seed 1 ends before the 50th


@pytest.mark.parametrize(
    "ids, message", [([[]], "at least one token"), ([1, 2], "at least one token"), ([[11]], "is 11, outside")]
)
def test_unusable_prompts(ids, message):
    with pytest.raises(UserError, match=message):
        list(minillm.generate(model := minillm.GPT2(CONFIG), np.array(ids, int), 1))
    assert model.training
