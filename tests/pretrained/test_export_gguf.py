"""Models as GGUF files, read back: every architecture, every type of numbers, and files that are not to be."""

import json
from dataclasses import replace

import numpy as np
import pytest
from export_models import CONFIGS, LLAMA3, ROUNDED, make
from model_files import TEMPLATE, TOKENIZER, write_llama2c

import minillm
from minillm.errors import MissingExtra, UserError
from minillm.files.number_types import stored
from minillm.layers.lora import LoRALinear
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.pretrained.adapter import save_adapter
from minillm.pretrained.chat import chat_of
from minillm.pretrained.end_tokens import end_tokens

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")
END = TOKENIZER.special_tokens["<|end|>"]
IDS = np.arange(40).reshape(2, 20)


def export(model, path, kind="f32", **settings):
    minillm.export(model, path, kind, TOKENIZER, **settings)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_float32_file_is_the_model(name, tmp_path):
    model = make(name)
    opened = minillm.from_pretrained(export(model, tmp_path / "m.gguf"))
    np.testing.assert_array_equal(opened.forward(IDS), model.forward(IDS))
    if name != "gpt2 without biases":  # whose file has biases of zero, as llama.cpp needs them
        assert opened.config == model.config


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", ROUNDED)
def test_half_precision_rounds_the_matrices_alone(name, kind, tmp_path):
    model = make(name)
    opened = minillm.from_pretrained(export(model, tmp_path / "m.gguf", kind)).parameters()
    for name, parameter in model.parameters().items():
        value = parameter.value
        if value.ndim > 1 and ".wpe." not in name:
            half = stored(value, kind, name)
            value = half.astype("f4") if kind == "f16" else (half.astype("u4") << 16).view("f4")
        np.testing.assert_array_equal(opened[name].value, value, name)


@pytest.mark.parametrize("name", ROUNDED)
def test_q8_0_is_within_its_rounding(name, tmp_path):
    """Half a step of max / 127 in a block of 32, and the rounding of the step to float16."""
    model = make(name)
    path = export(model, tmp_path / "m.gguf", "q8_0")
    opened = minillm.from_pretrained(path).parameters()
    matrices = 0
    for name, parameter in model.parameters().items():
        value, found = parameter.value, opened[name].value
        if value.ndim < 2 or ".wpe." in name:
            np.testing.assert_array_equal(found, value, name)
            continue
        if ".h." in name:
            value, found = value.T, found.T  # blocks are cut from rows as GGUF has them, (out, in)
        blocks, errors = value.reshape(-1, 32), (found - value).reshape(-1, 32)
        step = np.abs(blocks).max(-1, keepdims=True) / 127
        assert (np.abs(errors) <= (0.5 + 127 / 2048) * step + 1e-7).all(), name
        assert errors.any()
        matrices += 1
    assert matrices >= 8
    assert path.stat().st_size < 0.4 * export(model, tmp_path / "whole.gguf").stat().st_size


def test_rows_that_q8_0_cannot_cut_are_f16(tmp_path):
    model = minillm.Llama(replace(CONFIGS["llama"], d_ff=100), seed=1)
    notes = minillm.export(model, tmp_path / "m.gguf", "q8_0", TOKENIZER)
    assert notes == [
        "2 tensors are f16, because q8_0 needs rows of a multiple of 32 numbers: blk.0.ffn_down.weight has rows of 100"
    ]
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16" and kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    minillm.from_pretrained(tmp_path / "m.gguf")


def test_names_and_rows_are_those_of_llama_cpp(tmp_path):
    """By the package gguf's own map of names, and with rows moved as its converter moves them."""
    from model_files import write_gguf

    for name in ("gpt2", "llama with biases", "qwen2", "qwen3", "mistral"):
        model = make(name)
        mine = gguf.GGUFReader(export(model, tmp_path / "mine.gguf", overwrite=True))
        theirs = gguf.GGUFReader(write_gguf(tmp_path / "theirs.gguf", model))
        tensors = {tensor.name: tensor.data for tensor in theirs.tensors}
        assert {tensor.name for tensor in mine.tensors} == set(tensors), name
        for tensor in mine.tensors:
            np.testing.assert_array_equal(tensor.data, tensors[tensor.name], tensor.name)
        keys = {key: field.contents() for key, field in mine.fields.items()}
        missing = [
            key for key, f in theirs.fields.items() if not key.startswith("GGUF") and keys.get(key) != f.contents()
        ]
        assert not missing, name


def test_interleaved_rotary_pairs_stay_as_they_are(tmp_path):
    """llama.cpp's pairs are interleaved: the rows of such a model are not moved."""
    path, arrays = write_llama2c(tmp_path)
    minillm.export(path, tmp_path / "m.gguf")
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    np.testing.assert_array_equal(stored["blk.1.attn_q.weight"], arrays["wq"][1])
    opened, ids = minillm.from_pretrained(tmp_path / "m.gguf"), IDS[:, :8]
    np.testing.assert_allclose(opened.forward(ids), minillm.from_pretrained(path).forward(ids), atol=1e-5)
    assert end_tokens(tmp_path / "m.gguf", None) == end_tokens(path, minillm.pretrained.tokenizer_of(path))


def test_lora_is_merged(tmp_path):
    model = make("qwen2")
    model.save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    add_lora(model, LoRA(2))
    for _, layer in model.layers():
        if isinstance(layer, LoRALinear):
            layer.lora_B.value[:] = 0.1
    expected = model.eval().forward(IDS)
    export(model, tmp_path / "memory.gguf")
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    minillm.export(tmp_path / "adapter", tmp_path / "files.gguf")
    for path in ("memory.gguf", "files.gguf"):
        np.testing.assert_allclose(minillm.from_pretrained(tmp_path / path).forward(IDS), expected, atol=2e-6)
    assert model.lora is not None  # the model itself keeps its LoRA


def folder_of(tmp_path, name="llama"):
    """A folder with a chat template, an end of turn and settings of generation, as published models have it."""
    folder = tmp_path / "source"
    make(name).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools: " + TEMPLATE)
    settings = {"do_sample": True, "temperature": 0.5, "top_k": 20, "eos_token_id": [END, 5], "bos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": END, "bos_token_id": 1}))
    names = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "eos_token": "<|end|>"}))
    return folder


def test_what_a_folder_says_besides_goes_with_it(tmp_path):
    folder = folder_of(tmp_path)
    assert minillm.export(folder, tmp_path / "m.gguf", "f32") == []
    messages = [{"role": "user", "content": "hello"}]
    for name in (None, "tool_use"):
        assert chat_of(tmp_path / "m.gguf", name).prompt(messages) == chat_of(folder, name).prompt(messages)
    assert set(end_tokens(tmp_path / "m.gguf", TOKENIZER)) == {END, 5}
    opened = minillm.from_pretrained(tmp_path / "m.gguf").carried
    assert opened.ids["bos_token_id"] == 1 and opened.tokenizer["eos_token"] == "<|end|>"
    assert opened.generation == {"do_sample": True, "temperature": 0.5, "top_k": 20}
    settings = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert settings["general.name"].contents() == "source"
    assert settings["tokenizer.ggml.eos_token_id"].contents() == END


def test_from_gguf_to_gguf(tmp_path):
    minillm.export(folder_of(tmp_path), tmp_path / "first.gguf", "bf16")
    minillm.export(tmp_path / "first.gguf", tmp_path / "second.gguf", "q8_0")
    minillm.export(tmp_path / "second.gguf", tmp_path / "third.gguf")  # quantised: f32 if nothing is asked for
    names = ("first", "second", "third")
    first, second, third = (gguf.GGUFReader(tmp_path / f"{name}.gguf").fields for name in names)
    assert list(first) == list(second) == list(third)
    changed = [key for key in first if first[key].contents() != second[key].contents()]
    assert changed == ["general.file_type"]
    assert third["general.file_type"].contents() == 0
    same = minillm.from_pretrained(tmp_path / "second.gguf").forward(IDS)
    np.testing.assert_array_equal(minillm.from_pretrained(tmp_path / "third.gguf").forward(IDS), same)


def test_numbers_are_as_in_the_source_if_nothing_is_asked_for(tmp_path):
    folder = folder_of(tmp_path)
    minillm.export(folder, tmp_path / "half", "bf16")
    minillm.export(tmp_path / "half", tmp_path / "m.gguf")
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["general.file_type"].contents() == 32
    expected = minillm.from_pretrained(tmp_path / "half").forward(IDS)
    np.testing.assert_array_equal(minillm.from_pretrained(tmp_path / "m.gguf").forward(IDS), expected)


def test_a_model_without_its_tokenizer(tmp_path):
    minillm.export(make("llama"), tmp_path / "m.gguf")
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.model"].contents() == "none"
    minillm.from_pretrained(tmp_path / "m.gguf")


def test_tensors_are_read_one_by_one(tmp_path, monkeypatch):
    """No tensor of a folder is read before the one before it is written."""
    folder, events = folder_of(tmp_path), []
    names = list(minillm.from_pretrained(folder).parameters())
    from minillm.files.safetensors_file import StoredTensor

    read = StoredTensor.read
    monkeypatch.setattr(StoredTensor, "read", lambda self, dtype: events.append(self.name) or read(self, dtype))
    minillm.export(folder, tmp_path / "m.gguf", "f16", progress=lambda done, total: events.append((done, total)))
    written = [event for event in events if isinstance(event, tuple)]
    assert events[::2] == names and events[1::2] == written
    assert written[-1][0] == written[-1][1] < (tmp_path / "m.gguf").stat().st_size


def test_large_tensors_are_rounded_in_parts(tmp_path, monkeypatch):
    whole = export(make("llama"), tmp_path / "whole.gguf", "q8_0").read_bytes()
    monkeypatch.setattr("minillm.pretrained.export_gguf.PART", 200)
    assert export(make("llama"), tmp_path / "parts.gguf", "q8_0").read_bytes() == whole


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "config, message",
    [
        (replace(CONFIGS["gpt2"], activation="gelu"), "exact form of GELU"),
        (replace(CONFIGS["qwen2"], head_dim=32), "d_model / n_head wide"),
        (
            replace(CONFIGS["qwen2"], rope_scaling=LLAMA3),
            "cannot be written for llama.cpp in a file of the architecture qwen2",
        ),
        (
            replace(CONFIGS["qwen3"], rope_scaling=replace(LLAMA3, original_max_position_embeddings=8)),
            "cannot be written for llama.cpp in a file of the architecture qwen3",
        ),
        (replace(CONFIGS["qwen3"], attention_bias=True), "without a bias on the output"),
    ],
)
def test_what_llama_cpp_does_not_compute(config, message, tmp_path):
    model = minillm.models.architectures.make_model(config, seed=0)
    with pytest.raises(UserError, match=message):
        minillm.export(model, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_a_sliding_window_is_written_with_a_note(tmp_path):
    (note,) = minillm.export(make("mistral"), tmp_path / "m.gguf")
    assert "beyond 8 tokens" in note
    wide = minillm.Mistral(replace(CONFIGS["mistral"], sliding_window=32), seed=0)
    assert minillm.export(wide, tmp_path / "wide.gguf") == []


def test_nothing_is_left_of_a_file_that_fails(tmp_path):
    model = make("llama")
    model.parameters()["model.layers.1.mlp.up_proj.weight"].value[3, 4] = 1e6
    with pytest.raises(UserError, match=r"blk.1.ffn_up.weight holds 1e\+06, which f16 cannot.* use bf16"):
        export(model, tmp_path / "m.gguf", "f16")
    assert not list(tmp_path.iterdir())
    export(model, tmp_path / "m.gguf", "bf16")


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minillm.pretrained.export_gguf._align", full)
    with pytest.raises(OSError, match="No space left") as caught:
        export(make("llama"), tmp_path / "m.gguf")
    assert caught.value.filename == str(tmp_path / "m.gguf") and not list(tmp_path.iterdir())


def test_places_that_are_taken(tmp_path):
    model = make("llama")
    path = export(model, tmp_path / "m.gguf")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"m.gguf is there already: replace it with --overwrite"):
        export(model, path, "q8_0")
    with pytest.raises(UserError, match="is the model itself"):
        minillm.export(path, path, overwrite=True)
    assert path.read_bytes() == before
    export(model, path, "q8_0", overwrite=True)
    assert len(path.read_bytes()) < len(before)
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        export(model, tmp_path / "folder.gguf", overwrite=True)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("m.bin", {}, "does not write .bin files"),
        ("m.safetensors", {}, "does not write .safetensors files"),
        ("m.gguf", dict(type="q4_k"), 'the type "q4_k" is not one of f32, f16, q8_0, bf16'),
        ("folder", dict(type="q8_0"), "only a GGUF file can be q8_0"),
        ("m.gguf", dict(shard_size="5GB"), "written whole"),
        ("folder", dict(shard_size="large"), "write it as 5GB"),
        ("m.gguf", dict(adapter=True), "leave out type and shards"),
        ("folder", dict(adapter=True), "is no adapter: leave out --adapter"),
    ],
)
def test_settings_that_cannot_be(name, settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        minillm.export(make("llama"), tmp_path / name, **settings)
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_changed(tmp_path):
    model = make("llama")
    model.model.blocks[0].mlp.forward = lambda x: x
    with pytest.raises(UserError, match="cannot be exported: it is not what its LlamaConfig describes"):
        minillm.export(model, tmp_path / "m.gguf")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r'writing m.gguf needs the package gguf.*pip install "minillm\[gguf\]"'):
        minillm.export(make("llama"), tmp_path / "m.gguf")
