"""Checkpoints of parameters of any memory layout, single numbers included."""

import numpy as np

import minillm
from minillm.training.checkpoint import Progress, load_checkpoint, save_checkpoint


class Model(minillm.Layer):
    def __init__(self, start):
        self.scale = minillm.Parameter(float(start))
        self.ws = [
            minillm.Parameter(np.full((3, 2), float(start)).T),
            minillm.Parameter(np.full((6, 2), float(start))[::2]),
        ]


def test_all_of_them_come_back(tmp_path):
    model, other = Model(1), Model(2)
    optimizer, restored = (minillm.AdamW(each.parameters(), lr=0.1) for each in (model, other))
    for parameter in model.parameters().values():
        parameter.grad = np.full(parameter.value.shape, 0.5)
    optimizer.step()
    (tmp_path / "training").mkdir()
    save_checkpoint(tmp_path, model, optimizer, Progress(step=1), {"settings": {}, "model": {}})
    load_checkpoint(tmp_path, other, restored, 1)
    for name, parameter in model.parameters().items():
        assert (other.parameters()[name].value == parameter.value).all() and (parameter.value < 1).all()
        assert (restored.second_moments[name] == optimizer.second_moments[name]).all()
        assert restored.second_moments[name].shape == parameter.value.shape
