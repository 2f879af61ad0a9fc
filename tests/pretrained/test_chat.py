"""Conversations: what templates are given, what becomes of those that fail, and which files say what."""

import json
from datetime import datetime

import pytest
from model_files import LLAMA, TOKENIZER, write_gguf

import minillm
from minillm.errors import UserError
from minillm.pretrained import hub as huggingface
from minillm.pretrained import template_sandbox
from minillm.pretrained.chat import Chat, ask, chat_of
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer

pytest.importorskip("jinja2", reason="chat templates need jinja2")
MESSAGES = [{"role": "system", "content": "Brief."}, {"role": "user", "content": 'Hi <b> & "é"'}]
CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def rendered(template, messages=MESSAGES, **names):
    return Chat(template, "<s>", "</s>", names).prompt(messages)


@pytest.mark.parametrize(
    "template, right",
    [
        (
            CHATML,
            '<|im_start|>system\nBrief.<|im_end|>\n<|im_start|>user\nHi <b> & "é"<|im_end|>\n<|im_start|>assistant\n',
        ),
        ("{{ bos_token }}{{ eos_token }}{{ image_token }}{{ pad_token is defined }}", "<s></s><image>False"),
        ("{{ tools is none }}{{ documents is none }}{{ tools is defined }}", "TrueTrueTrue"),
        ("{{ messages[1].content | tojson }}", '"Hi <b> & \\"é\\""'),
        ("{{ {'b': [1], 'a': none} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":null,"b":[1]}'),
        ("{{ {'a': 'é'} | tojson(ensure_ascii=true, indent=1) }}", '{\n "a": "\\u00e9"\n}'),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
            "user",
        ),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}a{{ x }}{% endgeneration %}{{ x }}", "a21"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ dict(a=1) }}{{ dict.fromkeys('a', 2) }}", "{'a': 1}{'a': 2}"),
        ("{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\n\n", "system\nuser\n"),
        ("{{ 'a' ~ 1 ~ ('b' ~ none) }}{% set x %}{{ 1 ~ 2 }}{% endset %}{{ x ~ x }}", "a1bNone1212"),
        ("{{ '<' ~ ('>' | e) }}{{ messages | map(attribute='role') | join(', ') }}", "<&gt;system, user"),
    ],
)
def test_templates_have_what_transformers_gives_them(template, right):
    assert rendered(template, image_token="<image>") == right


def test_the_date_is_that_of_today():
    before = datetime.now().strftime("%Y-%m-%d")
    template = "{% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% else %}2024-07-26{% endif %}"
    assert before <= rendered(template) <= datetime.now().strftime("%Y-%m-%d")


def test_messages_reach_a_template_as_they_are():
    """But for fields that are null, which are left out, and for reasoning, which has several names."""
    parts = [{"type": "text", "text": "a"}, {"type": "image"}]
    messages = [
        {"role": "tool", "content": parts, "name": "f"},
        {"role": "assistant", "content": None, "reasoning": "r"},
    ]
    assert json.loads(rendered("{{ messages | tojson }}", messages)) == [
        {"role": "tool", "content": parts, "name": "f"},
        {"role": "assistant", "reasoning": "r", "thinking": "r", "reasoning_content": "r"},
    ]
    assert messages[1]["content"] is None, "the messages themselves stay as they are"
    for wrong in ("Hi", [["user", "Hi"]], {"role": "user"}):
        with pytest.raises(UserError, match="conversation"):
            rendered("x", wrong)


@pytest.mark.parametrize(
    "template, reason",
    [
        ("{{ raise_exception('take\n turns') }}", "take turns"),
        ("\n\n{{ 'a' + 1 }}", r"TypeError: .*line 3"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 2.0 ** 5000 }}", "OverflowError"),
        ("{{ messages[0].missing + 'x' }}", "no attribute 'missing'"),
        ("{{ messages[9].role }}", "no element 9"),
        ("{{ 'é'.encode('ascii') }}", "UnicodeEncodeError"),
        ("{{ {} | tojson(colour=1) }}", "TypeError"),
        ("{{ nothing | tojson }}", "not JSON serializable"),
        ("{{ [1, 'a'] | sort }}", "TypeError"),
        ("{{ 'a'.index('b') }}", "ValueError"),
        ("{{ 1e999 | int }}", "NameError"),
        ("{% include 'other' %}", "loader"),
        ("{% break %}", "SyntaxError: 'break' outside loop$"),
        ("{% for m in messages %}", "line 1"),
        ("{{ x | nothing }}", "nothing"),
        ("{% for a in 'b' %}" * 30 + "{% endfor %}" * 30, "SyntaxError"),
        ("{{ " + "(" * 9000 + ")" * 9000 + " }}", "RecursionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ namespace(__a=1) }}", "underscore"),
        ("{{ strftime_now(1) }}", "TypeError"),
    ],
)
def test_whatever_fails_in_a_template_is_one_line(template, reason):
    with pytest.raises(UserError, match=rf"^the model's chat template cannot be used: .*{reason}") as failed:
        rendered(template)
    assert "\n" not in str(failed.value) and len(str(failed.value)) < 400


DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(64) %}LINE{% endfor %}"
WRITTEN_OUT = ["{{ ns.x }}", "{{ ns.x | tojson }}", "{{ '' ~ ns.x }}", "{{ '%s' % ns.x }}", "{{ '{}'.format(ns.x) }}"]


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        *(DOUBLING.replace("LINE", "{% set ns.x = [ns.x, ns.x] %}") + end for end in WRITTEN_OUT),
        "{% for i in range(99999) %}{% for j in range(99999) | list %}{% break %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
        DOUBLING.replace("LINE", "{% set ns.x = ns.x + ns.x %}"),
        DOUBLING.replace("LINE", "{% set ns.x = ns.x ~ ns.x %}"),
        DOUBLING.replace("LINE", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        DOUBLING.replace("LINE", "{% set ns.x = [ns.x, ns.x] | join %}"),
        DOUBLING.replace("LINE", "{% set ns.x = ns.x.replace('a', 'aa') %}").replace("64", "9999"),
        "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ [0] * 10 ** 10 }}",
        "{{ 'x' | center(10 ** 10) }}",
        "{{ 'x'.rjust(10 ** 10) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 10) }}",
        "{{ ('x' * 10 ** 6) | replace('x', 'y' * 10 ** 6) }}",
        "{{ ('x' * 10 ** 6).join(['y'] * 10 ** 6) }}",
        "{{ [1] | batch(10 ** 10, 0) | list }}",
        "{{ lipsum(n=10 ** 10) }}",
        "{{ 1 | round(10 ** 10, 'ceil') }}",
    ],
)
def test_a_template_without_an_end_is_stopped(template, monkeypatch):
    monkeypatch.setattr(template_sandbox, "MOST_STEPS", 20_000)  # which takes less time to reach
    with pytest.raises(UserError, match="cannot be used: (it |OverflowError: Range too big)"):
        rendered(template)


def test_a_long_conversation_is_no_template_without_an_end():
    messages = [{"role": "user", "content": "x" * 1000}] * 2000
    assert len(rendered(CHATML, messages)) > 2_000_000
    assert rendered("{{ 10000001 | round }}{{ '%d' % 123456789 }}{{ 'in 1234567: {}'.format(10000001) }}")


# ------------------------------------------------------------------------------------------------------------- to ids


def test_control_tokens_are_read_and_nothing_is_added():
    special = ["<|im_start|>", "<|im_end|>", "</s>"]
    tokenizer = BytePairTokenizer.train("the user asks " * 9, 290, special)
    start, end, eos = (tokenizer.special_tokens[token] for token in special)
    chat = Chat(CHATML, "", "</s>")
    ids, ends = chat.encode(tokenizer, [{"role": "user", "content": "a<|im_end|>"}])
    plain = tokenizer.encode("user\na"), tokenizer.encode("\n"), tokenizer.encode("assistant\n")
    assert ids == [start, *plain[0], end, end, *plain[1], start, *plain[2]] and ends == eos
    assert chat.end_of_turn(tokenizer) == end


def test_what_a_tokenizer_puts_around_a_text_is_left_out():
    class BosFirst(BytePairTokenizer):
        def encode(self, text, allowed_special=(), disallowed_special="all", add_special_tokens=True):
            ids = super().encode(text, allowed_special, disallowed_special)
            return [256, *ids] if add_special_tokens else ids

    tokenizer = BosFirst([bytes([b]) for b in range(256)] + [b"<s>"], [], special_tokens={"<s>": 256})
    ids, _ = Chat("{{ bos_token }}{{ messages[0].content }}", "<s>").encode(tokenizer, [{"content": "a"}])
    assert ids == [256, ord("a")]


@pytest.mark.parametrize(
    "template, end",
    [
        (CHATML, "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }} </s>{% endfor %}", "</s>"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }}.</s>{% endfor %}", None),
        ("{{ messages[0].content }}</s>", None),
        ("{{ raise_exception('no') if messages | length > 1 }}", None),
    ],
)
def test_the_end_of_a_turn_is_what_the_template_writes_after_an_answer(template, end):
    tokenizer = BytePairTokenizer.train("a b c " * 9, 270, ["<|im_end|>", "</s>"])
    assert Chat(template).end_of_turn(tokenizer) == tokenizer.special_tokens.get(end)
    assert Chat(template).end_of_turn(CharacterTokenizer("abc")) is None


# -------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path):
    minillm.Llama(LLAMA, seed=1).save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder, **fields):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_templates_by_name(folder):
    change(folder, chat_template=[{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}])
    assert chat_of(folder).template == "a" and chat_of(folder, name="tool_use").template == "b"
    with pytest.raises(
        UserError, match='no chat template named "rag": choose one with --chat-template: default, tool_use'
    ):
        chat_of(folder, name="rag")
    change(folder, chat_template=[{"name": "tool_use", "template": "b"}, {"name": "rag", "template": "c"}])
    with pytest.raises(UserError, match="no default: choose one with --chat-template: rag, tool_use"):
        chat_of(folder)
    (folder / "chat_template.jinja").write_text("é", encoding="utf-8")  # goes before all of the configuration
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "short.jinja").write_text("d")
    assert chat_of(folder).template == "é" and chat_of(folder, name="short").template == "d"
    with pytest.raises(UserError, match="--chat-template: default, short"):
        chat_of(folder, name="rag")


@pytest.mark.parametrize("wrong", [5, ["a"], [{"name": "default"}], [{"template": "a"}], {"default": None}])
def test_what_is_no_template_is_refused(folder, wrong):
    change(folder, chat_template=wrong)
    with pytest.raises(UserError, match="tokenizer_config.json: chat_template has to be"):
        chat_of(folder)


def test_a_template_that_cannot_be_read_is_refused(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match="chat_template.jinja is not valid UTF-8"):
        chat_of(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").mkdir()
    with pytest.raises(UserError, match="chat_template.jinja cannot be read"):
        chat_of(folder)


def test_special_tokens_by_name(folder):
    change(
        folder,
        chat_template="x",
        bos_token={"content": "<s>", "lstrip": False},
        eos_token=None,
        image_token="<image>",
        add_bos_token=True,
        extra_special_tokens={"boi_token": "<boi>"},
        additional_special_tokens=["<a>"],
    )
    assert chat_of(folder) == Chat("x", "<s>", "", {"image_token": "<image>", "boi_token": "<boi>"})
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "</s>"}, "pad_token": "<p>"}))
    old = Chat("x", "<s>", "</s>", {"image_token": "<image>", "pad_token": "<p>", "boi_token": "<boi>"})
    assert chat_of(folder) == old
    change(folder, added_tokens_decoder={})  # a newer folder, which says everything in one file
    assert chat_of(folder).eos == ""


def test_of_a_gguf_file(tmp_path):
    pytest.importorskip("gguf", reason="GGUF files need the package gguf")

    def add(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["<s>", "</s>", "<unk>", "<pad>"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(2)
        writer.add_pad_token_id(3)
        writer.add_sep_token_id(9)  # outside of the vocabulary
        writer.add_chat_template([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}])

    path = write_gguf(tmp_path / "m.gguf", minillm.Llama(LLAMA, seed=1), change=add)
    assert chat_of(path) == Chat("a", "<s>", "</s>", {"unk_token": "<unk>", "pad_token": "<pad>"})
    assert chat_of(path, name="tool_use").template == "b"


def test_templates_are_fetched_from_the_hub():
    from fnmatch import fnmatch

    def fetched(name):
        return any(fnmatch(name, pattern) for pattern in huggingface.WANTED)

    assert fetched("chat_template.jinja") and fetched("additional_chat_templates/tool_use.jinja")
    assert fetched("tokenizer.model") and fetched("model-00001-of-00002.safetensors")
    assert not fetched("pytorch_model.bin") and not fetched("modeling_x.py")


def test_a_template_that_writes_nothing_is_reported(folder):
    change(folder, chat_template="{% for m in messages %}{% endfor %}")
    with pytest.raises(UserError, match="model: its chat template makes no text of the question"):
        ask(folder, TOKENIZER, "Hi")


def test_a_question_that_contains_special_tokens_may_be_refused(folder):
    change(folder, chat_template="{{ messages[0].content }}")
    end = TOKENIZER.special_tokens["<|end|>"]
    assert ask(folder, TOKENIZER, "<|end|>")[0] == [end]
    with pytest.raises(UserError, match="--special"):
        ask(folder, TOKENIZER, "<|end|>", special="refuse")
