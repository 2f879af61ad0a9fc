"""The lessons' small model is kept when it is trained to the end, and only then."""

import pytest

from minillm.lessons import small_model


def test_a_model_whose_training_was_interrupted_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(small_model, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(small_model, "train", lambda run: "stopped")
    with pytest.raises(KeyboardInterrupt):
        small_model.small_model.__wrapped__()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
