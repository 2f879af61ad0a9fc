"""Every architecture by its cases: files both ways, GGUF, transformers, LoRA, the simulator, the commands.

The cases are those of minillm.checks.cases, so that a new architecture is tested here without a change of this file.
"""

from dataclasses import replace

import numpy as np
import pytest
from planting import assert_close

import minillm
from minillm.backend.arrays import to_host
from minillm.backend.random_streams import stream
from minillm.checks.cases import MODELS, randomised
from minillm.kernels.simulator import compiler_available
from minillm.layers.linear import Linear
from minillm.models.architectures import ARCHITECTURES, config_from_dict, config_to_dict, make_model
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.models.presets import PRESETS
from minillm.pretrained.adapter import apply_adapter, save_adapter
from minillm.profiling.flops import flops_per_token, multiplied_weights
from minillm.profiling.memory import count_parameters

CONTEXT, VOCABULARY = 32, 17
IDS, TARGETS = (stream("test", name).integers(VOCABULARY, (2, 12)) for name in ("ids", "targets"))


def configs():
    """Label -> the configuration of a case, with a longer context and without dropout; each once."""
    found = {}
    for case in MODELS:
        for problem in case.gradcheck:
            config = replace(case.make(problem).config, context_length=CONTEXT, vocab_size=VOCABULARY, dropout=0.0)
            found.setdefault(config, case.label(problem))
    return [
        pytest.param(config, id=label.removesuffix(", dropout").removesuffix(", no dropout"))
        for config, label in found.items()
    ]


each_config = pytest.mark.parametrize("config", configs())
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def is_of(config, name):
    return type(config) is ARCHITECTURES[name].config_class


def config_of(name):
    """The first of an architecture."""
    return next(each.values[0] for each in configs() if is_of(each.values[0], name))


def random_model(config, scale=0.3):
    return randomised(make_model(config), scale).eval()


def gradients_of(model):
    model.train().loss(IDS, TARGETS)
    model.backward()
    return {name: parameter.grad for name, parameter in model.parameters().items()}


@each_config
def test_what_is_saved_opens_again(tmp_path, config):
    model = random_model(config)
    model.save_pretrained(tmp_path)
    opened = minillm.from_pretrained(tmp_path)
    if getattr(config, "rope_interleaved", False):  # saved with rows moved: another model, the same function
        assert_close(opened.forward(IDS), model.forward(IDS), 1e-6)
    else:
        assert opened.config == config and (opened.forward(IDS) == model.forward(IDS)).all()
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.peers
@each_config
def test_transformers_computes_the_same(tmp_path, config):
    """Logits, loss and every gradient of the model that transformers opens; and what it saves, minillm opens."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    random_model(config).save_pretrained(tmp_path)
    model = minillm.from_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    logits = theirs(torch.tensor(IDS)).logits
    assert_close(model.forward(IDS), logits.detach().numpy(), 1e-5)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(TARGETS).flatten())
    loss.backward()
    assert float(model.loss(IDS, TARGETS)) == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    gradients = gradients_of(model)
    assert gradients.keys() <= expected.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name], 1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    opened = minillm.from_pretrained(tmp_path / "theirs")
    assert_close(opened.forward(IDS), model.eval().forward(IDS), 1e-6)


@pytest.mark.peers
@each_config
def test_greedy_generation_is_that_of_transformers(tmp_path, config):
    """Token for token with both caches, until the context is full, which is beyond every window."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    random_model(replace(config, d_model=32), 0.5).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    count = CONTEXT - 4
    prompt = dict(inputs=torch.tensor(IDS[:, :4]), attention_mask=torch.ones(2, 4, dtype=torch.long))
    expected = theirs.generate(**prompt, max_new_tokens=count, do_sample=False, use_cache=True, pad_token_id=0)
    sampler = minillm.Sampler(temperature=0)
    model = minillm.from_pretrained(tmp_path)
    ours = np.stack(list(minillm.generate(model, IDS[:, :4], max_new_tokens=count, sampler=sampler)), axis=1)
    np.testing.assert_array_equal(ours, expected.numpy()[:, 4:])


@each_config
def test_gguf(tmp_path, config):
    """As llama.cpp's converter writes it: names by the package gguf, rows of q and k moved where llama.cpp wants it."""
    pytest.importorskip("gguf", reason="GGUF files need the package gguf")
    from model_files import write_gguf

    if getattr(config, "rope_interleaved", False):
        pytest.skip("llama.cpp's files do not say the order of pairs: interleaved is theirs")
    model = random_model(config)
    opened = minillm.from_pretrained(write_gguf(tmp_path / "m.gguf", model))
    assert (opened.forward(IDS) == model.forward(IDS)).all()
    if getattr(config, "sliding_window", 0) is not None:  # without a window the file is that of a Llama
        assert opened.config == config


@each_config
def test_counts(config):
    model = make_model(config)
    assert count_parameters(config) == sum(parameter.value.size for parameter in model.parameters().values())
    matrices = sum(p.value.size for name, p in model.parameters().items() if p.value.ndim == 2 and ".h." in name)
    matrices += sum(p.value.size for name, p in model.parameters().items() if p.value.ndim == 2 and ".layers." in name)
    assert multiplied_weights(config) == matrices + config.vocab_size * config.d_model
    width = config.n_head * getattr(config, "head_dim", config.d_model // config.n_head)
    seen = min(CONTEXT, getattr(config, "sliding_window", None) or CONTEXT)
    expected = 6 * multiplied_weights(config) + 12 * config.n_layer * width * seen
    assert flops_per_token(config, CONTEXT) == expected


@each_architecture
def test_lora(tmp_path, name):
    model = random_model(config_of(name))
    model.save_pretrained(tmp_path / "base")
    thin = minillm.from_pretrained(tmp_path / "base").train()
    add_lora(thin, LoRA(2))
    assert not any(type(layer) is Linear for path, layer in thin.body.layers())
    optimizer = minillm.AdamW(thin.trainable_parameters(), lr=0.1)
    thin.loss(IDS, TARGETS)
    thin.backward()
    optimizer.step()
    save_adapter(thin, tmp_path / "adapter", str(tmp_path / "base"))
    adapted = apply_adapter(minillm.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert_close(adapted.forward(IDS), thin.eval().forward(IDS), 1e-5)
    assert np.abs(adapted.forward(IDS) - model.forward(IDS)).max() > 0.01


@pytest.mark.skipif(not compiler_available(), reason="the simulator needs a C++ compiler (apt install g++)")
@each_architecture
def test_kernels_compute_the_same(name):
    config = config_of(name)
    model = random_model(config)
    expected, loss = gradients_of(model), float(model.loss(IDS, TARGETS))
    model.zero_grad()
    model.to("cudasim")
    found = gradients_of(model)
    assert float(model.loss(IDS, TARGETS)) == pytest.approx(loss, rel=1e-5)
    for name, gradient in found.items():
        assert_close(to_host(gradient), expected[name], 1e-4)


def preset_of(name):
    return next(key for key, preset in PRESETS.items() if preset.architecture == name and preset.model)


@each_architecture
def test_commands(tmp_path, name, monkeypatch, capsys):
    """train, inspect, info, generate, and train --init with LoRA, on a tiny model of the architecture's preset."""
    from minillm.cli import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30, encoding="utf-8")

    def run(*arguments):
        assert app.app(list(map(str, arguments)), standalone_mode=False) in (None, 0)
        return capsys.readouterr().out

    small = (
        "--n-layer 1 --n-head 2 --d-model 16 --context-length 8 --batch-size 4 --max-steps 2 --eval-windows 2".split()
    )
    data = "--data text.txt --sample-tokens 0".split()
    kv = ["--n-kv-head", 1, "--d-ff", 24] if hasattr(ARCHITECTURES[name].config_class, "n_kv_head") else []
    run(
        "train",
        "--preset",
        preset_of(name),
        "--tokenizer",
        "bpe",
        "--vocab-size",
        300,
        "--out",
        "run",
        *data,
        *small,
        *kv,
    )
    opened = minillm.from_pretrained("run")
    assert opened.config.d_model == 16 and is_of(opened.config, name)
    assert f"run: {ARCHITECTURES[name].display_name}, " in run("info", "--model", "run")
    assert "attn" in run("inspect", "run", "--text", "the quick")
    assert "the lazy" in run("generate", "run", "--prompt", "the lazy", "--max-tokens", 3)
    run("train", "--init", "run", "--lora-rank", 2, "--max-steps", 2, "--out", "tuned", "--batch-size", 4, *data)
    assert type(minillm.from_pretrained("tuned")) is ARCHITECTURES[name]


@pytest.mark.peers
@each_architecture
def test_a_new_tokenizer_is_opened_by_transformers(tmp_path, name):
    """The same ids by the architecture's own pattern, beside a config.json of its type."""
    transformers = pytest.importorskip("transformers")
    kind = ARCHITECTURES[name]
    text = "Hello, world's 2026! it's 3.14 naïve  spaces\n\nnew lines\tand tabs 東京 " * 20
    tokenizer = minillm.BytePairTokenizer.train(text, 320, ["<|endoftext|>"], kind.tokenizer_pattern)
    config = config_of(name)
    make_model(replace(config, vocab_size=tokenizer.vocab_size)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for sample in (text, "IT'S 12345 a\n\n  b", "<|endoftext|>x"):
        ids = tokenizer.encode(sample, allowed_special="all")
        assert theirs.encode(sample, add_special_tokens=False) == ids and theirs.decode(ids) == sample
    theirs.save_pretrained(tmp_path / "theirs")
    opened = minillm.BytePairTokenizer.from_pretrained(tmp_path / "theirs")
    assert opened.encode(text) == tokenizer.encode(text)
