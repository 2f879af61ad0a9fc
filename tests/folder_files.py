"""Small model folders of Hugging Face's form, and changes to their files."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

import minillm
from minillm.checks.cases import randomised

SHAPE = dict(vocab_size=11, context_length=8, n_layer=2, n_head=4, d_model=16)


def saved(folder, kind="llama"):
    kinds = {"gpt2": (minillm.GPT2, minillm.GPT2Config), "llama": (minillm.Llama, minillm.LlamaConfig)}
    model_class, config_class = kinds[kind]
    model = randomised(model_class(config_class(**SHAPE), seed=0), 0.3).eval()
    model.save_pretrained(folder)
    return model


def shard(folder, dtype=None):
    """The weights of a folder in two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name].astype(dtype or np.float32) for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def config_of(folder, remove=(), **changes):
    """Change config.json."""
    path = folder / "config.json"
    contents = json.loads(path.read_text())
    path.write_text(json.dumps({n: v for n, v in {**contents, **changes}.items() if n not in remove}))


def tensors_of(folder, change):
    """Change model.safetensors."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.copy() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path, {"format": "pt"})
