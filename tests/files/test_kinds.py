"""Files and folders that are something else are called what they are, at whatever place they are."""

import pytest
from folder_files import saved, shard

import minillm
from minillm.errors import UserError
from minillm.pretrained import tokenizer_of

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0123456789abcdef" * 4 + b"\nsize 538090408\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in to go on</body></html>\n"
KINDS = {
    "pointer": (POINTER, "a pointer of Git LFS, .*git lfs pull"),
    "page": (PAGE, r"a web page \(HTML\)"),
    "page with BOM and space": (b"\xef\xbb\xbf\n <HTML lang=en>" + b" " * 30, r"a web page \(HTML\)"),
    "empty": (b"", "empty"),
    "gzip": (b"\x1f\x8b\x08" + b"a" * 40, "compressed by gzip"),
    "zeros": (b"\0" * 600, "full of zeros"),
    "answer": (b"Entry not found", "an answer of a server"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"x" * 40, "an HDF5 file"),
}


@pytest.mark.parametrize("place", ["model.safetensors", "config.json", "model-00001-of-00002.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_folder(tmp_path, kind, place):
    contents, message = KINDS[kind]
    saved(tmp_path)
    if "of" in place:
        shard(tmp_path)
    (tmp_path / place).write_bytes(contents)
    with pytest.raises(UserError, match=f"{place} is (not a complete safetensors file: it is )?{message}"):
        minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize("place", ["tokenizer.json", "generation_config.json", "tokenizer_config.json"])
def test_in_the_other_files_of_a_folder(tmp_path, place):
    saved(tmp_path)
    (tmp_path / place).write_bytes(POINTER)
    with pytest.raises(UserError, match=f"{place} is a pointer of Git LFS"):
        tokenizer_of(tmp_path) if place == "tokenizer.json" else minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["model.gguf", "model.bin", "model.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_named_itself(tmp_path, kind, name):
    contents, message = KINDS[kind]
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError, match=f"{name} is not a model file that minillm can open: it is {message}"):
        minillm.from_pretrained(tmp_path / name)


@pytest.mark.parametrize("start, name", [(b"lmgg", "ggml"), (b"tjgg", "ggjt"), (b"fmgg", "ggmf"), (b"algg", "ggla")])
def test_models_older_than_gguf(tmp_path, start, name):
    (tmp_path / "ggml-model-q4_0.bin").write_bytes(start + b"\1\0\0\0" * 20)
    with pytest.raises(UserError, match=f"older than GGUF \\({name}\\)"):
        minillm.from_pretrained(tmp_path / "ggml-model-q4_0.bin")


def test_gguf_of_big_endian_machines(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "big") + bytes(64))
    with pytest.raises(UserError, match="for big-endian machines"):
        minillm.from_pretrained(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "files, message",
    [
        (["tokenizer.json", "tokenizer_config.json"], "a tokenizer only"),
        (["model.safetensors"], "weights without their config.json"),
        (["adapter_model.safetensors"], "an adapter without its adapter_config.json"),
        (["model_index.json"], "a pipeline of diffusers"),
        (["params.json", "consolidated.00.pth"], "a model in Meta's own form"),
        (["tf_model.h5"], "a model in TensorFlow's form"),
        (["onnx/model.onnx", "model.onnx"], "a model in ONNX's form"),
        (["llama-q4.gguf"], r"it holds 1 GGUF file\(s\): name one, .*llama-q4.gguf"),
        (["pytorch_model.bin"], r"a pickle \(pytorch_model.bin\) only"),
        (["deeper/config.json"], "one folder deeper: name .*deeper"),
        (["snapshots/0123/config.json", "refs/main"], "one folder deeper: name .*snapshots/0123"),
        ([], "it is empty"),
    ],
)
def test_folders_that_hold_no_model(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"holds no model: config.json is missing; .*{message}"):
        minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name, message",
    [
        ("model.onnx", "as ONNX"),
        ("flax_model.msgpack", "as Flax's msgpack"),
        ("model-q8_0.gguf", "as a GGUF file"),
        ("gptq_model-4bit-128g.safetensors", "holds gptq_model-4bit-128g.safetensors: if it is the whole model"),
    ],
)
def test_folders_whose_weights_are_of_another_form(tmp_path, name, message):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    with pytest.raises(UserError, match=message):
        minillm.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_folders_that_old_programs_quantised(tmp_path, name):
    saved(tmp_path)
    (tmp_path / name).write_text('{"bits": 4}')
    with pytest.raises(UserError, match=f"a quantised folder \\({name}\\)"):
        minillm.from_pretrained(tmp_path)


def test_a_mixture_of_experts_by_its_model_type(tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8}')
    with pytest.raises(UserError, match=r"model_type is 'mixtral' \(a mixture of experts\)"):
        minillm.from_pretrained(tmp_path)
