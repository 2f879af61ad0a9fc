"""Which tokens of a conversation are learned: by marks, by beginnings, and as transformers has it."""

import pytest
from chat_examples import TEMPLATES

from minillm.data.conversations import conversation_of
from minillm.errors import UserError
from minillm.pretrained.chat import Chat, chat_of
from minillm.pretrained.chat_mask import describe_roles, examples_of, token_bounds
from minillm.pretrained.plain_template import plain_chat
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer, load_tokenizer

CONTROL = (
    "<s> </s> <|im_start|> <|im_end|> <|start_header_id|> <|end_header_id|> <|eot_id|> <start_of_turn> <end_of_turn>"
)
TOKENIZER = BytePairTokenizer.train("the user and the assistant talk of this and that. " * 9, 300, CONTROL.split())

# << and >> become generation marks, or nothing: the answer, and the token that ends it
MARKED = {
    "chatml": """{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}
<<{{ m.content + '<|im_end|>' }}>>{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "llama 3": """{{ bos_token }}{% for m in messages %}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}{% if m.role == 'assistant' %}
<<{{ m.content | trim + '<|eot_id|>' }}>>{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
    "llama 2": """{% if messages[0].role == 'system' %}
{% set system = '<<' + 'SYS>>\\n' + messages[0].content + '\\n<<' + '/SYS>>\\n\\n' %}
{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{% for m in rest %}{% if m.role == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' }}{% else %}
<<{{ ' ' + m.content + ' ' + eos_token }}>>{% endif %}{% endfor %}""",
    "gemma": """{{ bos_token }}{% for m in messages %}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}{% if m.role == 'assistant' %}
<<{{ m.content | trim + '<end_of_turn>' }}>>{% else %}{{ m.content | trim + '<end_of_turn>' }}{% endif %}{{ '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
    "mistral": """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}
<<{{ m.content + eos_token }}>>{{ ' ' }}{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}""",
    "zephyr": """{% for m in messages %}{{ '<|' + m.role + '|>\\n' }}{% if m.role == 'assistant' %}
<<{{ m.content + eos_token }}>>{% else %}{{ m.content + eos_token }}{% endif %}{{ '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}""",
}
TURNS = [
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "This is that,\n\nand æ 漢."},
    {"role": "user", "content": "  And that? "},
    {"role": "assistant", "content": "The user."},
]
SYSTEM = {"role": "system", "content": "Be brief."}
CHARACTERS = "User:\nAssistant:\nSystem:\n" + "".join(turn["content"] for turn in [SYSTEM, *TURNS])


def with_marks(name):
    return MARKED[name].replace("<<{{", "{% generation %}{{").replace("}}>>", "}}{% endgeneration %}")


def without_marks(name):
    return MARKED[name].replace("<<{{", "{{").replace("}}>>", "}}")


def conversation(*messages, **more):
    return conversation_of("f, line 1", {"messages": list(messages), **more})


def learned_texts(example, tokenizer=TOKENIZER):
    """The texts of what is learned together."""
    texts, before = [], False
    for index, learned in zip(example.ids, example.learned):
        if learned:
            piece = tokenizer.token_bytes(index)
            texts = [*texts[:-1], texts[-1] + piece] if before else [*texts, piece]
        before = learned
    return [text.decode() for text in texts]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The tokenizer in transformers, with any template."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder, bos_token="<s>", eos_token="</s>")


@pytest.mark.peers
@pytest.mark.parametrize("messages", [TURNS, [SYSTEM, *TURNS], TURNS[:2]], ids=["two", "system", "one"])
@pytest.mark.parametrize("name", MARKED)
def test_ids_and_mask_are_those_of_transformers(theirs, name, messages):
    right = theirs.apply_chat_template(
        messages, chat_template=with_marks(name), return_assistant_tokens_mask=True, return_dict=True
    )
    for template in (with_marks(name), without_marks(name)):
        (example,) = examples_of(Chat(template, "<s>", "</s>"), TOKENIZER, conversation(*messages))
        assert example.ids == right["input_ids"]
        assert example.learned.astype(int).tolist() == right["assistant_masks"]


@pytest.mark.parametrize(
    "name, ends",
    [
        ("chatml", "<|im_end|>"),
        ("chatml with a default system", "<|im_end|>"),
        ("llama 3", "<|eot_id|>"),
        ("gemma 1", "<end_of_turn>"),
        ("gemma 3", "<end_of_turn>"),
        ("zephyr", "</s>"),
        ("mistral v1", "</s>"),
        ("mistral v7", "</s>"),
        ("qwen 2.5", "<|im_end|>"),
    ],
)
def test_the_answers_and_the_token_that_ends_them(name, ends):
    messages = [{**turn, "content": turn["content"].strip()} for turn in TURNS]
    (example,) = examples_of(Chat(TEMPLATES[name], "<s>", "</s>"), TOKENIZER, conversation(*messages))
    assert learned_texts(example) == [messages[1]["content"] + ends, messages[3]["content"] + ends]


def test_what_a_template_writes_at_the_very_end_alone():
    """Phi 3 ends the conversation with EOS, not each answer."""
    chat = Chat(TEMPLATES["phi 3"].replace("<|end|>", "<|im_end|>"), "<s>", "</s>")
    (example,) = examples_of(chat, TOKENIZER, conversation(*TURNS))
    assert example.text.endswith("<|im_end|>\n</s>")
    assert learned_texts(example) == [TURNS[1]["content"] + "<|im_end|>", "The user.<|im_end|>"]


REWRITING = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}
{{- '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_a_template_that_rewrites_earlier_answers_gives_an_example_for_each():
    thought = [
        TURNS[0],
        {"role": "assistant", "content": "<think>hm</think>this."},
        TURNS[2],
        {"role": "assistant", "content": "<think>so</think>that."},
    ]
    one, two = examples_of(Chat(REWRITING), TOKENIZER, conversation(*thought))
    assert learned_texts(one) == ["<think>hm</think>this.<|im_end|>"]
    assert learned_texts(two) == ["<think>so</think>that.<|im_end|>"]
    assert "hm" in one.text and "hm" not in two.text and "this." in two.text
    chat = Chat(REWRITING)
    assert two.text.startswith(chat.prompt(thought[:3]))  # what the model has before it when it answers
    assert len(examples_of(chat, TOKENIZER, conversation(*thought[:2]))) == 1


def test_a_system_message_that_moves_to_the_last_question():
    template = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}
{{ '[INST]' + (messages[0].content if loop.index0 == messages | length - 1 - (messages[-1].role == 'assistant') else '')
+ m.content + '[/INST]' }}{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"""
    one, two = examples_of(Chat(template, "<s>", "</s>"), TOKENIZER, conversation(SYSTEM, *TURNS))
    assert one.text.startswith("<s>[INST]Be brief.What") and two.text.startswith("<s>[INST]What")
    assert learned_texts(two) == ["The user.</s>"]


def test_answers_of_weight_0_are_given_and_not_learned():
    turns = [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS[2:]]
    for template in (with_marks("chatml"), without_marks("chatml")):
        (example,) = examples_of(Chat(template), TOKENIZER, conversation(*turns))
        assert learned_texts(example) == ["The user.<|im_end|>"] and "and æ" in example.text


def test_calls_of_tools_are_learned():
    template = """{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{%- for c in m.tool_calls or [] %}{{ c.function.name + ' ' + c.function.arguments | tojson }}{% endfor %}
{{ (m.content or '') + '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"at": "this"}}}]}
    found = conversation(TURNS[0], call, {"role": "tool", "content": "that"}, TURNS[3], tools=[{"name": "look"}])
    (example,) = examples_of(Chat(template), TOKENIZER, found)
    first, second = learned_texts(example)
    assert first.startswith('look {"at": "this"}') and first.endswith("<|im_end|>")
    assert second.strip() == "The user.<|im_end|>" and example.text.startswith('[{"type": "function"')


def test_the_assistant_may_speak_first():
    (example,) = examples_of(Chat(without_marks("chatml")), TOKENIZER, conversation(TURNS[3], TURNS[0], TURNS[1]))
    assert learned_texts(example)[0] == "The user.<|im_end|>"


@pytest.mark.parametrize(
    "template, messages, message",
    [
        (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.role + m.content }}{% endif %}{% endfor %}",
            [*TURNS[:2], SYSTEM, *TURNS[2:]],
            "the template leaves out message 3, of the system: move its text into another message",
        ),
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}",
            [SYSTEM, *TURNS],
            "the model's chat template cannot be used: no system",
        ),
        ("{{ messages[0].content }}", TURNS[:2], "the template does not write message 2, of the assistant, after"),
        (
            "{{ messages[0].content }}{% generation %}{% endgeneration %}",
            TURNS[:2],
            "the template marks no text of the assistant",
        ),
        (
            "{% generation %}{{ messages[0].content }}{{ messages[2].content }}{% endgeneration %}",
            [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS[2:]],
            "it has answers of weight 0, and the template marks 1 places for 2 answers",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_named_with_its_line(template, messages, message):
    with pytest.raises(UserError) as caught:
        examples_of(Chat(template), TOKENIZER, conversation(*messages))
    assert str(caught.value).startswith(f"f, line 1: {message}")


def test_a_character_that_the_vocabulary_lacks_is_named_with_its_line():
    tokenizer = CharacterTokenizer.train("User:\nAssistant:\nWhat is this? That.")
    messages = [TURNS[0], {"role": "assistant", "content": "That: z"}]
    with pytest.raises(UserError, match="^f, line 1: the model has never seen the character 'z'"):
        examples_of(plain_chat(tokenizer), tokenizer, conversation(*messages))


class Lower(CharacterTokenizer):
    """A tokenizer that changes the text, so that bytes of tokens do not add up to it."""

    def encode(self, text, *args, **named):
        return super().encode(text.lower(), *args, **named)


def test_a_tokenizer_that_changes_the_text():
    lower = Lower("".join(sorted(set("user:\nassistant:\nwhat is this? that."))))
    chat = plain_chat(lower)
    (example,) = examples_of(chat, lower, conversation(TURNS[0], {"role": "assistant", "content": "That."}))
    assert token_bounds(lower, example.text, example.ids) is None
    assert learned_texts(example, lower) == ["that.\n\n"]


def test_roles_in_the_text():
    chat = Chat(without_marks("chatml"))
    found = conversation(SYSTEM, *TURNS)
    (example,) = examples_of(chat, TOKENIZER, found)
    ends = describe_roles(chat, found, example.text)
    assert [role for role, _ in ends] == ["system", "user", "assistant", "user", "assistant"]
    begins = [0, *(end for _, end in ends)]
    parts = [example.text[begin:end] for begin, end in zip(begins, begins[1:])]
    assert all(part.startswith(f"<|im_start|>{role}\n") for part, (role, _) in zip(parts, ends))


# ------------------------------------------------------------------------------------------------- the plain template


def test_the_plain_template_with_an_end_of_text():
    tokenizer = BytePairTokenizer.train("the user and the assistant talk. " * 9, 300, ["<|endoftext|>"])
    chat = plain_chat(tokenizer)
    (example,) = examples_of(chat, tokenizer, conversation(SYSTEM, *TURNS))
    assert example.text.startswith("System:\nBe brief.\n\nUser:\nWhat is this?\n\nAssistant:\nThis is")
    assert learned_texts(example, tokenizer) == [f"{TURNS[n]['content']}<|endoftext|>" for n in (1, 3)]
    assert chat.end_text(tokenizer) is None and chat.end_of_turn(tokenizer) == tokenizer.special_tokens["<|endoftext|>"]


def test_the_plain_template_without_one():
    tokenizer = CharacterTokenizer.train(CHARACTERS)
    chat = plain_chat(tokenizer)
    (example,) = examples_of(chat, tokenizer, conversation(*TURNS))
    assert learned_texts(example, tokenizer) == [
        "This is that,\nand æ 漢.\n\n",
        "The user.\n\n",
    ]  # no blank line inside
    assert chat.end_text(tokenizer) == "\n\n" and chat.end_of_turn(tokenizer) is None
    assert chat.prompt(TURNS[:1]) == "User:\nWhat is this?\n\nAssistant:\n"


def test_the_plain_template_writes_texts_alone():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    with pytest.raises(UserError, match="^f, line 1: .*the plain template writes texts alone, no calls of tools"):
        examples_of(plain_chat(TOKENIZER), TOKENIZER, conversation(TURNS[0], call))


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["characters", "byte pairs"])
def test_the_plain_template_in_transformers(tmp_path, kind):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    tokenizer = CharacterTokenizer.train(CHARACTERS) if kind == "characters" else TOKENIZER
    tokenizer.save_pretrained(tmp_path)
    chat = plain_chat(load_tokenizer(tmp_path))
    (tmp_path / "chat_template.jinja").write_text(chat.template)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    found = transformers.AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [SYSTEM, *TURNS], return_assistant_tokens_mask=True, return_dict=True
    )
    (example,) = examples_of(chat_of(tmp_path), tokenizer, conversation(SYSTEM, *TURNS))
    assert example.ids == found["input_ids"] and example.learned.astype(int).tolist() == found["assistant_masks"]
