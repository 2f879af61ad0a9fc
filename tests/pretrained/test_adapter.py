"""Adapters of the library peft: every key of adapter_config.json and every tensor is used or refused by its name."""

import json
import math

import numpy as np
import pytest
from folder_files import saved
from safetensors.numpy import load_file, save_file

import minillm
from minillm.errors import UserError
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.pretrained.adapter import save_adapter

IDS = np.arange(8)[None]
KINDS = ["gpt2", "llama"]
QUERY = {"gpt2": "transformer.h.0.attn.c_attn", "llama": "model.layers.0.self_attn.q_proj"}


@pytest.fixture(params=KINDS)
def adapter(request, tmp_path):
    """(folder of an adapter of rank 2, its model's kind); beside it its base."""
    model = saved(tmp_path / "base", request.param)
    add_lora(model, LoRA(2, 4.0))
    rng = np.random.default_rng(0)
    for name, parameter in model.parameters().items():
        if name.endswith("lora_B"):
            parameter.value = (0.3 * rng.normal(size=parameter.value.shape)).astype(np.float32)
    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    return tmp_path / "adapter", request.param


def change(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder, function):
    path = folder / "adapter_model.safetensors"
    save_file({n: t.copy() for n, t in function(load_file(path)).items()}, path)


def added(folder, kind):
    """What the adapter adds to the first query weight, as (out, in)."""
    base, adapted = (minillm.from_pretrained(path).parameters() for path in (folder.parent / "base", folder))
    difference = adapted[f"{QUERY[kind]}.weight"].value - base[f"{QUERY[kind]}.weight"].value
    return difference.T if kind == "gpt2" else difference


def product(folder, kind):
    tensors = load_file(folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{QUERY[kind]}.lora_{matrix}.weight"] for matrix in "AB")
    return b @ a


@pytest.mark.parametrize(
    "fields, scale",
    [
        ({}, 4 / 2),
        (dict(use_rslora=True), 4 / math.sqrt(2)),
        (dict(alpha_pattern={"q_proj": 10, "attn.c_attn": 10}), 10 / 2),
        (dict(alpha_pattern={r".*\.0\..*": 7, "nothing": 1}), 7 / 2),
        (dict(alpha_pattern={"proj": 10, "c_att": 10}), 4 / 2),  # the whole end of a path is meant
        (dict(r=7, rank_pattern={".*": 2}), 4 / 2),
        (dict(init_lora_weights="gaussian", lora_dropout=0.1, task_type=None, modules_to_save=None), 4 / 2),
        (dict(init_lora_weights="orthogonal", layers_to_transform=[0, 1], peft_version="0.18"), 4 / 2),
    ],
)
def test_the_scale_of_each_pair(adapter, fields, scale):
    folder, kind = adapter
    change(folder, **fields)
    np.testing.assert_allclose(added(folder, kind), scale * product(folder, kind), atol=1e-5)


def test_ranks_that_differ(adapter):
    folder, kind = adapter
    name = f"base_model.model.{QUERY[kind]}.lora_"

    def wider(tensors):
        a, b = tensors[f"{name}A.weight"], tensors[f"{name}B.weight"]
        return {**tensors, f"{name}A.weight": np.vstack([a, a]), f"{name}B.weight": np.hstack([b, b])}

    change_tensors(folder, wider)
    with pytest.raises(UserError, match="has shape"):
        minillm.from_pretrained(folder)
    change(folder, rank_pattern={QUERY[kind].rpartition(".")[2]: 4})
    if kind == "llama":  # q_proj of the other layer has rank 2
        change(folder, rank_pattern={r"layers\.0\.self_attn\.q_proj": 4})
    else:
        change(folder, rank_pattern={r"h\.0\.attn\.c_attn": 4})
    np.testing.assert_allclose(added(folder, kind), product(folder, kind), atol=1e-5)


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: n.removeprefix("base_model.model."),
        lambda n: n.replace(".weight", ".default.weight"),
        lambda n: n.replace("base_model.model.transformer.", "base_model.model.").replace(".model.model.", ".model."),
    ],
)
def test_other_names_of_the_same_tensors(adapter, rename):
    folder, kind = adapter
    expected = minillm.from_pretrained(folder).forward(IDS)
    change_tensors(folder, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})
    assert (minillm.from_pretrained(folder).forward(IDS) == expected).all()


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(init_lora_weights="pissa"), "init_lora_weights is 'pissa', which changes the weights of the base"),
        (dict(init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4'"),
        (dict(init_lora_weights="olora"), "init_lora_weights is 'olora'"),
        (dict(init_lora_weights="loftq"), "init_lora_weights is 'loftq'"),
        (dict(init_lora_weights="corda"), "init_lora_weights is 'corda'"),
        (dict(init_lora_weights="lora_ga"), "init_lora_weights is 'lora_ga'"),
        (dict(alora_invocation_tokens=[1, 2]), "does not compute alora_invocation_tokens"),
        (dict(modules_to_save=["lm_head"]), "does not compute modules_to_save"),
        (dict(trainable_token_indices=[3]), "does not compute trainable_token_indices"),
        (dict(layer_replication=[[0, 2], [1, 2]]), "does not compute layer_replication"),
        (dict(lora_bias=True), "does not compute lora_bias"),
        (dict(use_qalora=True), "does not compute use_qalora"),
        (dict(target_parameters=["mlp.experts"]), "does not compute target_parameters"),
        (dict(megatron_config={"a": 1}), "does not compute megatron_config"),
        (dict(something_new=3), "does not compute something_new"),
        (dict(bias="all"), "does not compute bias 'all'"),
        (dict(task_type="SEQ_CLS"), "task_type is 'SEQ_CLS'"),
        (dict(rank_pattern={"q": "x"}), "rank_pattern"),
        (dict(alpha_pattern={"(": 1}), "alpha_pattern has the pattern '\\(', which cannot be used"),
        (dict(use_rslora="yes"), "use_rslora"),
        (dict(lora_alpha=10**400), "lora_alpha"),
        (dict(revision=3), "revision is 3"),
    ],
)
def test_what_is_not_computed_is_refused_by_its_name(adapter, fields, message):
    change(adapter[0], **fields)
    with pytest.raises(UserError, match=message):
        minillm.from_pretrained(adapter[0])


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.transformer.wte.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.self_attn.q_proj.bias",
        "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight",
    ],
)
def test_tensors_that_nothing_uses_are_refused(adapter, name):
    folder, _ = adapter
    change_tensors(folder, lambda tensors: {**tensors, name: np.ones((2, 16), np.float32)})
    with pytest.raises(UserError, match="does not belong to a LoRA of this model|is missing: the file is incomplete"):
        minillm.from_pretrained(folder)


def test_half_of_a_pair(adapter):
    folder, kind = adapter
    name = f"base_model.model.{QUERY[kind]}.lora_B.weight"
    change_tensors(folder, lambda tensors: {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(UserError, match=f"lora_B of {QUERY[kind]} is missing"):
        minillm.from_pretrained(folder)


def test_two_adapters_in_one_file(adapter):
    folder, _ = adapter
    change_tensors(folder, lambda t: {**t, **{n.replace(".weight", ".other.weight"): v for n, v in t.items()}})
    with pytest.raises(UserError, match="it holds more than one adapter"):
        minillm.from_pretrained(folder)


def test_a_target_without_matrices(adapter):
    folder, kind = adapter
    part = QUERY[kind].rpartition(".")[2]
    change_tensors(folder, lambda tensors: {n: t for n, t in tensors.items() if f".{part}." not in n})
    with pytest.raises(UserError, match=f"target_modules names '{part}', which has no matrices"):
        minillm.from_pretrained(folder)


def test_an_adapter_that_is_a_pickle(adapter):
    folder, _ = adapter
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match=r"as a pickle \(adapter_model.bin\)"):
        minillm.from_pretrained(folder)


def test_the_head_is_adapted_where_it_is_its_own(tmp_path):
    model = saved(tmp_path / "base", "llama")
    add_lora(model, LoRA(2, 4.0))
    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    a, b = np.ones((2, 16), np.float32), np.ones((11, 2), np.float32)
    names = {f"base_model.model.lm_head.lora_{matrix}.weight": value for matrix, value in (("A", a), ("B", b))}
    change_tensors(tmp_path / "adapter", lambda tensors: {**tensors, **names})
    found = minillm.from_pretrained(tmp_path / "adapter").lm_head.weight.value
    np.testing.assert_allclose(found, model.lm_head.weight.value + 2 * b @ a, atol=1e-6)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of peft beside today's transformers
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        dict(r=4, lora_alpha=8, use_rslora=True),
        dict(r=4, lora_alpha=8, rank_pattern={"(c_fc|gate_proj)": 2}, alpha_pattern={r".*\.0\..*_proj": 3}),
        dict(r=2, lora_alpha=8, init_lora_weights="gaussian", layers_to_transform=[1]),
    ],
    ids=str,
)
def test_what_peft_saves(tmp_path, kind, settings):
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    saved(tmp_path / "base", kind)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    targets = ["c_attn", "c_fc", "c_proj"] if kind == "gpt2" else ["q_proj", "v_proj", "o_proj", "gate_proj"]
    settings = dict(task_type="CAUSAL_LM", target_modules=targets, fan_in_fan_out=kind == "gpt2", **settings)
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(**settings))
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.eval().save_pretrained(tmp_path / "adapter")
    expected = theirs(torch.tensor(IDS)).logits.detach().numpy()
    assert np.abs(minillm.from_pretrained(tmp_path / "adapter").forward(IDS) - expected).max() < 1e-4
