"""The chat template of a model that has none: plain text, for any vocabulary.

    User:
    What is the capital of France?

    Assistant:
    Paris.

A blank line ends each turn. Where the vocabulary has an end of text, that ends an answer, and a
blank line follows it. Where it has none, as a vocabulary of characters, the blank line itself is
the end: so blank lines inside of an answer are left out, and who generates stops at one
(`Chat.end_text`). The name of a role is followed by the end of its line, not by a space: byte pairs
would merge the space with the first word of what is said.

The answer is between generation marks, as transformers reads them.
"""

from __future__ import annotations

from minillm.data.special import end_of_text, special_tokens
from minillm.pretrained.chat import Chat

NAME = "plain"  # of --chat-template

_TEMPLATE = """{START}{%- for message in messages %}
{%- if message.tool_calls is defined or message.content is not string %}
{{- raise_exception('the plain template writes texts alone, no calls of tools') }}
{%- endif %}
{{- (message.role | capitalize) + ':\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ ANSWER }}{%- endgeneration %}AFTER
{%- else %}
{{- (message.content | trim) + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Assistant:\\n' }}
{%- endif %}"""
_WITH_END = ("(message.content | trim) + END", "{{- '\\n\\n' }}")
_WITHOUT_END = ("((message.content | trim).split('\\n') | select | join('\\n')) + '\\n\\n'", "")


def plain_chat(tokenizer) -> Chat:
    """The plain template for a tokenizer: with its BOS, if it puts one before every text, and its
    end of text.
    """
    special = special_tokens(tokenizer)
    bos, eos = (token if token in special else "" for token in (tokenizer.bos_token, tokenizer.eos_token))
    end = "eos_token" if eos else next(map(_quoted, end_of_text(tokenizer)), "")
    answer, after = _WITH_END if end else _WITHOUT_END
    adds_bos = bos and tokenizer.encode("User")[:1] == [special[bos]]
    template = (
        _TEMPLATE.replace("{START}", "{{- bos_token }}" if adds_bos else "")
        .replace("ANSWER", answer.replace("END", end))
        .replace("AFTER", after)
    )
    return Chat(template, bos, eos)


def _quoted(token: str) -> str:
    return "'" + token.replace("\\", "\\\\").replace("'", "\\'") + "'"
