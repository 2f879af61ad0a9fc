"""A small training run, for the tests of training and of profiling."""

import pytest

from minillm.training import TrainingSettings, start_run

MODEL = dict(n_layer=1, n_head=2, d_model=16, context_length=8)
SETTINGS = dict(
    batch_size=6, max_steps=12, eval_interval=4, eval_windows=5, sample_tokens=5, warmup_steps=2, lr=1e-2, min_lr=1e-3
)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 30, encoding="utf-8")
    return path


@pytest.fixture
def new_run(tmp_path, text_file):
    """A function that starts a small run in tmp_path/NAME with changed settings."""

    def start(name="run", overwrite=False, model=None, **settings):
        settings = TrainingSettings(**{**SETTINGS, "data": (str(text_file),), **settings})
        return start_run(settings, {**MODEL, **(model or {})}, tmp_path / name, overwrite)

    return start
