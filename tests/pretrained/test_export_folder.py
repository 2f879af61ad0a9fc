"""Models as Hugging Face folders: types, shards, what goes with the weights, and places that are taken."""

import json
import sys

import numpy as np
import pytest
from export_models import CONFIGS, ROUNDED, make
from model_files import TEMPLATE, TOKENIZER, write_llama2c
from safetensors import safe_open

import minillm
from minillm.errors import UserError
from minillm.files.number_types import stored
from minillm.models.carried import Carried
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.pretrained import tokenizer_of
from minillm.pretrained.adapter import save_adapter

IDS = np.arange(40).reshape(2, 20)
TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def rounded(value, kind):
    half = stored(value, kind, "")
    return (half.astype("u4") << 16).view("f4") if kind == "bf16" else half.astype("f4")


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", ["gpt2 without biases", "llama 3.1", "qwen3", "mistral"])
def test_a_folder_is_the_model_with_rounded_weights(name, kind, tmp_path):
    model = make(name)
    assert minillm.export(model, tmp_path / "m", kind, TOKENIZER) == []
    opened = minillm.from_pretrained(tmp_path / "m")
    assert opened.config == model.config
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(opened.parameters()[name].value, rounded(parameter.value, kind), name)
    contents = json.loads((tmp_path / "m" / "config.json").read_text())
    assert contents["dtype"] == contents["torch_dtype"] == TORCH[kind]
    assert tokenizer_of(tmp_path / "m").encode("the fox") == TOKENIZER.encode("the fox")


def test_shards(tmp_path):
    model = make("llama")
    minillm.export(model, tmp_path / "m", "bf16", TOKENIZER, shard_size="40KB")
    folder = tmp_path / "m"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert (
        names == [f"model-{n:05}-of-{len(names):05}.safetensors" for n in range(1, len(names) + 1)] and len(names) > 3
    )
    assert not (folder / "model.safetensors").exists()
    count = sum(parameter.value.size for parameter in model.parameters().values())
    assert index["metadata"] == {"total_parameters": count, "total_size": 2 * count}
    for name in names:
        with safe_open(folder / name, framework="numpy") as file:
            assert {tensor for tensor, where in index["weight_map"].items() if where == name} == set(file.keys())
            assert file.metadata() == {"format": "pt"}
            sizes = [2 * int(np.prod(file.get_slice(tensor).get_shape())) for tensor in file.keys()]
        assert sum(sizes) <= 40_000 or len(sizes) == 1
    minillm.export(model, tmp_path / "whole", "bf16", TOKENIZER)
    expected = minillm.from_pretrained(tmp_path / "whole").forward(IDS)
    np.testing.assert_array_equal(minillm.from_pretrained(folder).forward(IDS), expected)


def test_the_reference_implementation_writes_the_same_file(tmp_path):
    from safetensors.numpy import load_file

    model = make("gpt2")
    minillm.export(model, tmp_path / "m", "f32", TOKENIZER)
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert set(tensors) == set(model.parameters())
    assert all((tensors[name] == parameter.value).all() for name, parameter in model.parameters().items())


def test_what_a_model_carries_goes_with_it(tmp_path):
    model = make("llama")
    model.carried = Carried(
        ids={"eos_token_id": [5, 7]},
        generation={"do_sample": True, "temperature": 0.5},
        templates={"default": TEMPLATE, "tool_use": "tools"},
        tokenizer={"eos_token": "<|end|>"},
    )
    minillm.export(model, tmp_path / "m", "bf16", TOKENIZER)
    opened = minillm.from_pretrained(tmp_path / "m").carried
    assert opened.templates == model.carried.templates and opened.ids == model.carried.ids
    assert opened.generation.items() >= model.carried.generation.items()
    assert opened.tokenizer["eos_token"] == "<|end|>"


def test_interleaved_rotary_pairs_become_halves(tmp_path):
    path, _ = write_llama2c(tmp_path)
    minillm.export(path, tmp_path / "m")
    opened, ids = minillm.from_pretrained(tmp_path / "m"), IDS[:, :8]
    assert not opened.config.rope_interleaved
    np.testing.assert_allclose(opened.forward(ids), minillm.from_pretrained(path).forward(ids), atol=1e-5)


def lora_of(tmp_path):
    model = make("llama")
    model.save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    add_lora(model, LoRA(2))
    for name, parameter in model.parameters().items():
        if name.endswith("lora_B"):
            parameter.value[:] = 0.1
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    return model.eval()


def test_an_adapter_is_merged_or_written_alone(tmp_path):
    expected = lora_of(tmp_path).forward(IDS)
    minillm.export(tmp_path / "adapter", tmp_path / "merged")
    minillm.export(tmp_path / "adapter", tmp_path / "alone", adapter=True)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    same = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("adapter", "alone")]
    assert same[0] == same[1]
    assert not (tmp_path / "alone" / "config.json").exists() and (tmp_path / "alone" / "tokenizer.json").is_file()
    for name in ("merged", "alone"):
        np.testing.assert_allclose(minillm.from_pretrained(tmp_path / name).forward(IDS), expected, atol=2e-6)


@pytest.mark.peers
@pytest.mark.parametrize("name, kind", [*((name, "f32") for name in CONFIGS), *((name, "bf16") for name in ROUNDED)])
def test_transformers_opens_it(name, kind, tmp_path):
    torch = pytest.importorskip("torch", reason="comparison with torch (extra test-peers)")
    transformers = pytest.importorskip("transformers", reason="comparison with transformers (extra test-peers)")
    minillm.export(make(name), tmp_path / "m", kind, TOKENIZER, shard_size="60KB")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert theirs.dtype == getattr(torch, TORCH[kind])  # as config.json says
    ours = minillm.from_pretrained(tmp_path / "m").forward(IDS)
    with torch.no_grad():
        np.testing.assert_allclose(
            theirs.float()(torch.tensor(IDS)).logits.numpy(), ours, atol=2e-5 * np.abs(ours).max()
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer("the lazy fox<|end|>")["input_ids"] == TOKENIZER.encode("the lazy fox<|end|>", "all")


# ---------------------------------------------------------------------------------------------------- places and failures


def test_a_folder_that_is_there(tmp_path):
    model, folder = make("llama"), tmp_path / "m"
    minillm.export(model, folder, "f32", TOKENIZER, shard_size="40KB")
    with pytest.raises(UserError, match="m is there already: replace it with --overwrite"):
        minillm.export(model, folder, "bf16", TOKENIZER)
    minillm.export(model, folder, "bf16", TOKENIZER, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert not list(folder.glob("model-*")) and (folder / "model.safetensors").is_file()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"m holds more than a model \(notes.txt\), which would be lost"):
        minillm.export(model, folder, "f32", TOKENIZER, overwrite=True)
    with pytest.raises(UserError, match="is the model itself"):
        minillm.export(folder, folder, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file: name a folder"):
        minillm.export(model, tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    minillm.export(model, tmp_path / "empty", "bf16", TOKENIZER)


def test_nothing_is_left_of_a_folder_that_fails(tmp_path, monkeypatch):
    model, folder = make("llama"), tmp_path / "m"
    minillm.export(model, folder, "f32", TOKENIZER)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model.parameters()["lm_head.weight"].value[1, 2] = 7e4
    with pytest.raises(UserError, match="lm_head.weight holds 70000, which f16 cannot"):
        minillm.export(model, folder, "f16", TOKENIZER, overwrite=True)
    monkeypatch.setattr("minillm.pretrained.export_folder.write_shards", full_disk)
    with pytest.raises(OSError, match="No space left"):
        minillm.export(model, folder, "bf16", TOKENIZER, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    from minillm.pretrained import export_folder

    model, folder = make("llama"), tmp_path / "m"
    minillm.export(model, folder, "f32", TOKENIZER)
    replace = export_folder.os.replace

    def refusing(source, target):
        if str(source).endswith(".tmp") and target == folder:
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(export_folder.os, "replace", refusing)
    with pytest.raises(PermissionError):
        minillm.export(model, folder, "bf16", TOKENIZER, overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


def test_a_tokenizer_of_another_model(tmp_path):
    small = minillm.Llama(minillm.LlamaConfig(100, 8, 1, 1, d_model=32), seed=0)
    for name in ("m", "m.gguf"):
        with pytest.raises(UserError, match=f"the tokenizer has {TOKENIZER.vocab_size} tokens, the model only 100"):
            minillm.export(small, tmp_path / name, "f32", TOKENIZER)
    assert not list(tmp_path.iterdir())


def test_a_folder_needs_no_gguf(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    minillm.export(make("llama"), tmp_path / "m", "bf16", TOKENIZER)
