"""A run never takes the place of what it needs."""

import pytest

import minillm
from minillm.errors import UserError
from minillm.pretrained.adapter import save_adapter
from minillm.training import TrainingSettings, resume_run, start_run


@pytest.fixture
def continued(new_run, tmp_path, text_file):
    """A function that starts a run from a model with LoRA; there are a model in `base` and its adapter in `adapter`."""

    def start(name, init, overwrite=True, **settings):
        settings = {"data": (str(text_file),), "lora_rank": 2, "max_steps": 2, "warmup_steps": 1} | settings
        return start_run(TrainingSettings(init=str(init), **settings), {}, tmp_path / name, overwrite)

    new_run("base")
    start("adapter", tmp_path / "base")
    (tmp_path / "link").symlink_to(tmp_path / "base")
    return start


@pytest.mark.parametrize(
    "out, init, message",
    [
        ("base", "base", "base is the model to continue from, which would be lost"),
        ("base", "link", "base is the model to continue from"),
        ("x/../base", "base", "is the model to continue from"),
        ("base/inside", "base", "is inside of"),
        ("link/inside", "base", "is inside of"),
        ("base", "adapter", "base is the model that .*adapter needs, which would be lost"),
        ("adapter", "adapter", "adapter is the model to continue from"),
        ("base", "base/kept", "base holds .*kept, the model to continue from"),
    ],
)
def test_models(continued, tmp_path, out, init, message):
    (tmp_path / "x").mkdir()
    minillm.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "base" / "kept")
    minillm.CharacterTokenizer.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "base" / "kept")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        continued(out, tmp_path / init)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_texts(new_run, continued, tmp_path):
    text = tmp_path / "base" / "text.txt"
    text.write_text("the quick brown fox. " * 100)
    (tmp_path / "shortcut.txt").symlink_to(text)
    for source in (text, tmp_path / "shortcut.txt"):
        with pytest.raises(UserError, match="base holds .*, which the run is to learn from"):
            new_run("base", overwrite=True, data=(str(source),))
    assert text.is_file() and resume_run(tmp_path / "base").progress.step == 0


def test_a_folder_beside_the_model_is_fine(continued, tmp_path):
    assert continued("base-2", tmp_path / "base").folder.name == "base-2"  # a name that begins like the model's


def test_an_adapter_is_not_saved_over_its_model_nor_a_model_over_an_adapter(continued, tmp_path):
    model = continued("other", tmp_path / "base").model
    with pytest.raises(UserError, match="base is the model that the adapter belongs to"):
        save_adapter(model, tmp_path / "base", str(tmp_path / "link"))
    with pytest.raises(UserError, match="adapter holds an adapter"):
        minillm.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "adapter")
    minillm.from_pretrained(tmp_path / "adapter")
