"""vocab.json and merges.txt with the files beside them, and tokenizer_config.json beside a tokenizer.json."""

import json

import pytest
from tokenizer_files import BYTE_LEVEL, byte_level, gpt2_old, llama, texts

from minillm.errors import UserError
from minillm.tokenizers import load_tokenizer

SIZE = len(gpt2_old()["model"]["vocab"]) if pytest.importorskip("tokenizers") else 0
FLAGS = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": True}
START, THINK = {"content": "<|im_start|>"} | FLAGS, {"content": "<think>"} | FLAGS | {"special": False}
SAMPLES = list(texts({"added_tokens": [{"content": t} for t in ("<|im_start|>", "<think>", "<|endoftext|>")]}, 100))
# the files beside the pair: name of the file -> its contents
BESIDE = {
    "nothing": {},
    "a class": {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}},
    "a space in front": {"tokenizer_config.json": {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True}},
    "BOS and EOS": {"tokenizer_config.json": {"add_bos_token": True, "add_eos_token": True}},
    "Qwen": {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>"}},
    "added_tokens.json": {"added_tokens.json": {"<|im_start|>": SIZE}},
    "added_tokens_decoder": {
        "tokenizer_config.json": {"added_tokens_decoder": {str(SIZE): START, str(SIZE + 1): THINK}},
    },
    "special_tokens_map.json": {
        "added_tokens.json": {"<think>": SIZE + 1, "<|im_start|>": SIZE},
        "special_tokens_map.json": {"bos_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>"]},
    },
}


def write(folder, beside, contents=None):
    """A pair of files, or a tokenizer.json, and the files beside it."""
    if contents is None:
        model = gpt2_old()["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *model["merges"], ""]))
    else:
        (folder / "tokenizer.json").write_text(json.dumps(contents))
    for name, value in beside.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return load_tokenizer(folder)


@pytest.mark.peers
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_ids_are_those_of_transformers(beside, tmp_path):
    transformers = pytest.importorskip("transformers", reason="comparison with the package transformers")
    ours, theirs = write(tmp_path, beside), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(theirs)
    for text in SAMPLES:
        assert ours.encode(text, "all") == theirs(text)["input_ids"], repr(text)
    ours.save_pretrained(tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved")
    for text in SAMPLES[:20]:
        assert saved.encode(text, "all") == ours.encode(text, "all")


def test_tokens_that_were_added(tmp_path):
    ours = write(tmp_path, BESIDE["added_tokens_decoder"])
    assert ours.vocab_size == SIZE + 2 and ours.special_tokens == {"<|endoftext|>": SIZE - 1, "<|im_start|>": SIZE}
    assert ours.encode("<|im_start|>  <think>", "all") == [SIZE, SIZE + 1]
    assert ours.encode("<think>") == [SIZE + 1]
    assert (ours.bos_token, ours.eos_token) == ("<|endoftext|>", "<|endoftext|>")


def test_bos_and_eos_by_the_configuration(tmp_path):
    ours = write(tmp_path, BESIDE["BOS and EOS"])
    plain = ours.encode("the dog", add_special_tokens=False)
    assert ours.encode("the dog") == [SIZE - 1, *plain, SIZE - 1]


@pytest.mark.parametrize(
    "beside, message",
    [
        ({"tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"}}, "the tokenizer_class 'CLIPTokenizer' is not"),
        ({"added_tokens.json": {"<|im_start|>": "x"}}, "added_tokens.json: '<.im_start.>' with the id 'x'"),
        ({"added_tokens.json": {"<|im_start|>": SIZE + 5}}, f"would give it {SIZE}"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": START}}}, "added_tokens_decoder has 'x'"),
        ({"tokenizer_config.json": {"added_tokens_decoder": [START]}}, "expected an object"),
        ({"tokenizer_config.json": {"add_bos_token": True, "bos_token": "<b>"}}, "'<b>' is not in the vocabulary"),
    ],
)
def test_what_cannot_be_is_named(beside, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write(tmp_path, beside)


BOS = "<|endoftext|>"
CONFIGS = {
    "BOS is asked for": {"add_bos_token": True, "bos_token": BOS},
    "nothing is said": {"bos_token": BOS},
    "a token more": {"added_tokens_decoder": {"421": START}},
}


@pytest.mark.peers
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_configuration_beside_tokenizer_json(config, tmp_path):
    """It names tokens and adds some; whether BOS comes before a text is said by tokenizer.json alone."""
    transformers = pytest.importorskip("transformers", reason="comparison with the package transformers")
    contents = byte_level(BYTE_LEVEL, [(BOS, True)], post_processor=BYTE_LEVEL)
    ours = write(
        tmp_path, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **config}}, contents
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.bos_token == config.get("bos_token")
    for text in SAMPLES:
        assert ours.encode(text, "all") == theirs(text)["input_ids"], repr(text)
    ours.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert written == {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}


def test_tokenizer_json_alone_says_whether_bos_is_there(tmp_path):
    config = {"tokenizer_config.json": {"add_bos_token": False, "bos_token": "<s>", "eos_token": {"content": "</s>"}}}
    ours = write(tmp_path, config, llama("first"))
    assert ours.encode("the")[0] == 1 and (ours.bos, ours.eos) == (1, 2)
    assert (ours.bos_token, ours.eos_token) == ("<s>", "</s>")
