"""A saved model knows what the one it came from knew: templates, ends, settings of generation, names of special tokens."""

import json

import numpy as np
import pytest
from model_files import LLAMA, TEMPLATE, TOKENIZER, add_byte_pairs, write_gguf, write_llama2c

import minillm
from minillm.errors import UserError
from minillm.models.fine_tuning import LoRA, add_lora
from minillm.pretrained import tokenizer_of
from minillm.pretrained.adapter import save_adapter
from minillm.pretrained.carried import carried_from
from minillm.pretrained.chat import chat_of
from minillm.pretrained.end_tokens import end_tokens
from minillm.training.run import resume_run, start_run
from minillm.training.settings import TrainingSettings

TEXT = "the quick brown fox jumps over the lazy dog. " * 60
END = TOKENIZER.special_tokens["<|end|>"]
NAMES = {"bos_token": "<|end|>", "eos_token": "<|end|>", "pad_token": "<|end|>"}


def put(path, contents):
    path.parent.mkdir(exist_ok=True)
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def chat_model(tmp_path):
    """A folder as its makers publish it: two end tokens, settings of generation, three templates, names and flags."""
    folder = tmp_path / "chat"
    minillm.Llama(LLAMA, seed=1).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    config = read(folder / "config.json")
    put(folder / "config.json", {**config, "bos_token_id": END, "eos_token_id": END, "pad_token_id": 7})
    settings = {"eos_token_id": [END, 5], "temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_length": 4096}
    put(folder / "generation_config.json", {**settings, "_from_model_config": True, "transformers_version": "4.40.0"})
    templates = [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "{{ tools }}"}]
    tokenizer = {**read(folder / "tokenizer_config.json"), **NAMES, "chat_template": templates, "model_max_length": 99}
    put(folder / "tokenizer_config.json", {**tokenizer, "add_bos_token": True, "padding_side": "left"})
    put(folder / "chat_template.jinja", TEMPLATE)
    put(folder / "additional_chat_templates" / "rag.jinja", "{{ documents }}")
    return folder


def check(folder, context=LLAMA.context_length):
    """All of it is in the other folder, as that of a model of this context."""
    config, generation = read(folder / "config.json"), read(folder / "generation_config.json")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (END, END, 7)
    assert generation["eos_token_id"] == [END, 5] and generation["bos_token_id"] == END
    assert (generation["temperature"], generation["top_p"], generation["do_sample"]) == (0.6, 0.9, True)
    assert generation["max_length"] == context and "_from_model_config" not in generation
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    names = sorted(path.stem for path in (folder / "additional_chat_templates").iterdir())
    assert names == ["rag", "tool_use"]
    assert carried_from(folder).templates == {"default": TEMPLATE, "tool_use": "{{ tools }}", "rag": "{{ documents }}"}
    assert end_tokens(folder, TOKENIZER) == (END, 5)
    assert chat_of(folder).template == TEMPLATE


def train(source, folder, tmp_path, **settings):
    put(tmp_path / "text.txt", TEXT)
    data = (str(tmp_path / "text.txt"),)
    shape = dict(context_length=16)
    return start_run(
        TrainingSettings(data=data, init=str(source), max_steps=1, batch_size=1, **settings), shape, folder
    )


def test_saving_what_was_opened(chat_model, tmp_path):
    minillm.from_pretrained(chat_model).save_pretrained(tmp_path / "again")
    check(tmp_path / "again")


@pytest.mark.parametrize("settings", [{}, dict(lora_rank=2, merge=True), dict(lora_rank=2)], ids=str)
def test_training_from_it(chat_model, tmp_path, settings):
    run = train(chat_model, tmp_path / "run", tmp_path, **settings)
    run.save_model()
    resume_run(tmp_path / "run").save_model()
    check(tmp_path / "run", context=16)
    tokenizer = read(tmp_path / "run" / "tokenizer_config.json")
    assert {name: tokenizer[name] for name in NAMES} == NAMES and tokenizer["padding_side"] == "left"
    assert tokenizer["model_max_length"] == 99 and tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "chat_template" not in tokenizer  # it has a file of its own
    assert (
        tokenizer["add_bos_token"] is True
    )  # said by the source; beside a tokenizer.json it changes nothing, there and here
    assert tokenizer_of(tmp_path / "run").encode("the fox") == tokenizer_of(chat_model).encode("the fox")
    again = train(tmp_path / "run", tmp_path / "second", tmp_path)
    assert again.folder.is_dir()
    check(tmp_path / "second", context=16)


def test_an_adapter_has_its_models_and_its_own(chat_model, tmp_path):
    model = minillm.Llama(LLAMA, seed=1)
    add_lora(model, LoRA(2))
    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", str(chat_model))
    check_same = carried_from(chat_model)
    assert carried_from(tmp_path / "adapter") == check_same
    put(tmp_path / "adapter" / "chat_template.jinja", "its own")
    own = carried_from(tmp_path / "adapter")
    assert own.templates == {"default": "its own"} and own.generation == check_same.generation
    minillm.from_pretrained(tmp_path / "adapter").save_pretrained(tmp_path / "whole")
    assert chat_of(tmp_path / "whole").template == "its own"


def test_of_a_gguf_file(tmp_path):
    pytest.importorskip("gguf")

    def add(writer):
        add_byte_pairs(writer)
        writer.add_uint32("tokenizer.ggml.eot_token_id", 5)
        writer.add_uint32("tokenizer.ggml.bos_token_id", END)
        writer.add_uint32("tokenizer.ggml.padding_token_id", 7)
        writer.add_string("tokenizer.chat_template.tool_use", "{{ tools }}")
        writer.add_float32("general.sampling.temp", 0.5)
        writer.add_int32("general.sampling.top_k", 20)

    path = write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), change=add)
    train(path, tmp_path / "run", tmp_path)
    minillm.from_pretrained(path).save_pretrained(tmp_path / "again")
    for folder in (tmp_path / "run", tmp_path / "again"):
        config, generation = read(folder / "config.json"), read(folder / "generation_config.json")
        assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (END, [5, END], 7)
        assert (generation["temperature"], generation["top_k"], generation["eos_token_id"]) == (0.5, 20, [5, END])
        assert carried_from(folder).templates == {"default": TEMPLATE, "tool_use": "{{ tools }}"}
    tokenizer = read(tmp_path / "run" / "tokenizer_config.json")
    assert (tokenizer["bos_token"], tokenizer["eos_token"]) == ("<|end|>", "<|end|>")


def test_of_a_llama2c_file(tmp_path):
    path, _ = write_llama2c(tmp_path)
    minillm.from_pretrained(path).save_pretrained(tmp_path / "again")
    assert read(tmp_path / "again" / "config.json")["eos_token_id"] == [1, 2]


def test_names_in_special_tokens_map(chat_model):
    (chat_model / "tokenizer_config.json").unlink()
    special = {
        "eos_token": {"content": "<|end|>", "lstrip": False},
        "additional_special_tokens": ["<a>", {"content": "<b>"}],
    }
    put(chat_model / "special_tokens_map.json", special)
    found = carried_from(chat_model).tokenizer
    assert found == {"eos_token": "<|end|>", "additional_special_tokens": ["<a>", "<b>"]}


def test_settings_that_old_folders_keep_in_config_json(chat_model, tmp_path):
    (chat_model / "generation_config.json").unlink()
    put(chat_model / "config.json", {**read(chat_model / "config.json"), "do_sample": True, "temperature": 0.7})
    minillm.from_pretrained(chat_model).save_pretrained(tmp_path / "again")
    generation = read(tmp_path / "again" / "generation_config.json")
    assert generation["temperature"] == 0.7 and generation["eos_token_id"] == END


@pytest.mark.parametrize("name", ["../out", "a/b", ""])
def test_a_template_whose_name_leads_out_of_the_folder(chat_model, name):
    put(chat_model / "tokenizer_config.json", {"chat_template": [{"name": name, "template": "x"}]})
    with pytest.raises(UserError, match="a chat template is named"):
        carried_from(chat_model)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_adapters_in_a_circle(tmp_path, length):
    model = minillm.Llama(LLAMA, seed=1)
    add_lora(model, LoRA(2))
    folders = [tmp_path / f"a{index}" for index in range(length)]
    for index, folder in enumerate(folders):
        save_adapter(model, folder, "elsewhere")
        path = folder / "adapter_config.json"
        base = str(folders[(index + 1) % length])
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
    for open_it in (minillm.from_pretrained, carried_from, chat_of, lambda folder: end_tokens(folder, TOKENIZER)):
        with pytest.raises(UserError, match="is an adapter of itself"):
            open_it(folders[0])


@pytest.mark.peers
def test_transformers_opens_it(chat_model, tmp_path):
    transformers = pytest.importorskip("transformers")
    train(chat_model, tmp_path / "run", tmp_path)
    messages = [{"role": "user", "content": "hello"}]
    tokenizers = [transformers.AutoTokenizer.from_pretrained(folder) for folder in (chat_model, tmp_path / "run")]
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for tokenizer in tokenizers]
    assert texts[0] == texts[1] == "<|user|>hello<|bot|>"
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "run")
    assert settings.eos_token_id == [END, 5] and settings.temperature == 0.6
    assert [tokenizer.eos_token for tokenizer in tokenizers] == ["<|end|>"] * 2
    assert np.array_equal(tokenizers[1]("the fox").input_ids, TOKENIZER.encode("the fox"))
