"""Chat templates render and encode as transformers does it; no expectation is stored here."""

import datetime
import json
from dataclasses import replace
from functools import lru_cache

import pytest
from chat_examples import CONVERSATIONS, TEMPLATES

from minillm.errors import UserError
from minillm.pretrained.chat import chat_of
from minillm.tokenizers import BytePairTokenizer, load_tokenizer

pytestmark = pytest.mark.peers
CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<unk>", "<pad>", "<image>", "<|end|>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a chat model: no weights, a byte-pair tokenizer whose names are those of transformers."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    BytePairTokenizer.train("the user and the assistant talk. " * 9, 300, CONTROL).save_pretrained(folder)
    change(
        folder,
        bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False},
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        sep_token=None,
        image_token="<image>",
        extra_special_tokens={"boi_token": "<|end|>"},
        add_bos_token=True,
        chat_template="a",
    )
    return folder


def change(folder, **fields):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def same_time(monkeypatch):
    """Both sides look at one clock."""
    chat_utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="compares with transformers")

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 2, 29, 23, 59, 58)

    monkeypatch.setattr(datetime, "datetime", Clock)
    if hasattr(chat_utils, "datetime"):
        monkeypatch.setattr(chat_utils, "datetime", Clock)


def peer(folder):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)


cached_peer = lru_cache(peer)


def rendered(render):
    """The text, or None where the template refuses or fails."""
    try:
        return render()
    except UserError:
        return None


def rendered_by_peer(render):
    from jinja2 import TemplateError

    try:
        return render()
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids(model, same_time, name):
    theirs, tokenizer, worked = cached_peer(model), load_tokenizer(model), 0
    theirs.chat_template = TEMPLATES[name]
    chat = replace(chat_of(model), template=TEMPLATES[name])
    for about, messages in CONVERSATIONS.items():
        for more in (True, False):
            right = rendered_by_peer(
                lambda: theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=more)  # noqa: B023
            )
            assert rendered(lambda: chat.prompt(messages, more)) == right, about  # noqa: B023
        if right is not None:
            ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert chat.encode(tokenizer, messages)[0] == ids, about
            worked += 1
    assert worked > 2 or name in ("without an end", "unknown filter", "no system")


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": "alone"},
        {"chat_template.jinja": "alone", "additional_chat_templates/tool_use.jinja": "tools"},
        {"additional_chat_templates/tool_use.jinja": "tools"},
        {"additional_chat_templates/default.jinja": "in the folder"},
    ],
)
@pytest.mark.parametrize(
    "stored",
    [
        None,
        "in the configuration",
        [{"name": "default", "template": "listed"}, {"name": "rag", "template": "with documents"}],
        [{"name": "tool_use", "template": "TOOLS"}],
    ],
)
def test_which_template_is_taken(model, tmp_path, stored, files):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    change(tmp_path, chat_template=stored)
    messages = [{"role": "user", "content": "x"}]
    for _ in range(2):  # without the files of their own, and with them
        right = rendered_by_peer(lambda: peer(tmp_path).apply_chat_template(messages, tokenize=False))
        assert rendered(lambda: chat_of(tmp_path).prompt(messages)) == right
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": "LlamaTokenizerFast", "bos_token": None},
        {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>"},
        {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>"},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "", "eos_token": "</s>", "audio_token": "<pad>"},
        {"model_specific_special_tokens": {"boi_token": "<image>"}, "cls_token": "<s>", "mask_token": "<pad>"},
    ],
)
@pytest.mark.parametrize("old_map", [None, {"bos_token": {"content": "<s>", "lstrip": False}, "pad_token": "<pad>"}])
def test_names_of_special_tokens(model, tmp_path, config, old_map):
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image", "boi", "audio")
    template = "".join(f"{name}:{{{{ {name}_token }}}}{{{{ {name}_token is defined }}}} " for name in names)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    if old_map:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(old_map))
    messages = [{"role": "user", "content": "x"}]
    right = peer(tmp_path).apply_chat_template(messages, tokenize=False)
    assert chat_of(tmp_path).prompt(messages) == right


WORDS = "the user asks and the assistant answers in a few words. hello there! [INST] and [/INST] are no tokens "


def sentence_pieces():
    """As of the first Llamas: a space before the text by a normalizer, bytes for what is unknown, BOS first."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    control = ["<unk>", "<s>", "</s>"]
    single = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=control + single, show_progress=False)
    tokenizer.train_from_iterator(WORDS.split(), trainer)
    contents = json.loads(tokenizer.to_str())
    contents["added_tokens"] = [token for token in contents["added_tokens"] if token["content"] in control]
    return contents | {"post_processor": bos_first("<s>", 1)}


def byte_pairs():
    """As of Llama 3: BOS first, by a post-processor."""
    control = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]
    tokenizer = BytePairTokenizer.train(WORDS * 3, 320, control)
    return tokenizer, bos_first("<s>", tokenizer.special_tokens["<s>"])


def bos_first(text, index):
    sequence = [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    known = {text: {"id": text, "ids": [index], "tokens": [text]}}
    return {"type": "TemplateProcessing", "single": sequence, "pair": sequence, "special_tokens": known}


@pytest.mark.parametrize("kind", ["sentence pieces", "byte pairs"])
def test_nothing_is_added_to_a_conversation(tmp_path, kind):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    if kind == "sentence pieces":
        contents = sentence_pieces()
    else:
        tokenizer, post_processor = byte_pairs()
        tokenizer.save_pretrained(tmp_path)
        contents = json.loads((tmp_path / "tokenizer.json").read_text()) | {"post_processor": post_processor}
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "a"}))
    theirs, ours, chat = peer(tmp_path), load_tokenizer(tmp_path), chat_of(tmp_path)
    for name in ("llama 2", "llama 3", "chatml", "mistral v1", "zephyr", "vicuna"):
        theirs.chat_template = TEMPLATES[name]
        for about in ("a question", "three turns", "scripts", "lines", "control tokens"):
            messages = CONVERSATIONS[about]
            ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert replace(chat, template=TEMPLATES[name]).encode(ours, messages)[0] == ids, (name, about)
