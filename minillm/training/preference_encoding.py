"""Pairs of answers as tokens: two texts for each pair, chosen before rejected.

Each text is the prompt and one answer, with a mark on the tokens of the answer, of which the
log-probability is taken. The end of an answer is one of them: a text gets the tokenizer's end of
text, a conversation what its template writes. Both texts of a pair end within the context: a longer
answer is cut there, and a pair is left out where nothing is left of one, or both are the same.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from minillm.data.preferences import ConversationPair, TextPair
from minillm.data.special import special_tokens
from minillm.errors import UserError
from minillm.pretrained.chat import Chat
from minillm.pretrained.chat_mask import Example, example_of_text, examples_of
from minillm.pretrained.plain_template import plain_chat
from minillm.training.chat_encoding import Tokens, refuse_special_in


def encoded_pairs(pairs, part: str, chat: Chat | None, tokenizer, special: str, context: int) -> tuple[Tokens, dict]:
    """(Tokens of 2 N texts, what was done to how many) for the pairs of one part.

    chat: the template of conversations. special: "refuse" for no special tokens in what the file
    has. Raises UserError, naming file and line, for a pair that template or tokenizer cannot take,
    and where no pair is left.
    """
    done = Counter(given=len(pairs), cut=0, left_out=0, same=0, special=0)
    texts: list[Example] = []
    names = [token for token in special_tokens(tokenizer) if token]
    for pair in pairs:
        said = _said(pair)
        if special == "refuse":
            refuse_special_in(said, pair.where, tokenizer)
        done["special"] += any(token in text for text in said for token in names)
        both = [_within(example, context) for example in _examples(pair, chat, tokenizer)]
        if not all(example.learned[1:].any() for example, _ in both):
            done["left_out"] += 1
        elif both[0][0].ids == both[1][0].ids:
            done["same"] += 1
        else:
            done["cut"] += any(is_cut for _, is_cut in both)
            texts += [example for example, _ in both]
    if not texts:
        raise UserError(
            f"no {part} pair has two different answers within the context of {context} tokens: use shorter ones, or a "
            "model or --context-length with a longer context"
        )
    ids = np.concatenate([np.asarray(each.ids, np.int64) for each in texts])
    learned = np.concatenate([each.learned for each in texts]).astype(np.uint8)
    return Tokens(ids, learned, np.cumsum([len(each.ids) for each in texts])), dict(done)


def _examples(pair: TextPair | ConversationPair, chat: Chat | None, tokenizer) -> list[Example]:
    if isinstance(pair, TextPair):
        return [_text(pair.where, tokenizer, pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]
    found = []
    for conversation in (pair.chosen, pair.rejected):
        examples = examples_of(chat, tokenizer, conversation)
        if len(examples) > 1:
            raise UserError(
                f"{conversation.where}: several answers differ, and the template writes an earlier answer in another way "
                "than the last one: leave pairs that differ in one answer alone, or use another with --chat-template"
            )
        found += examples
    return found


def _text(where: str, tokenizer, prompt: str, answer: str) -> Example:
    """A prompt with the BOS that the tokenizer puts before a text, and an answer with an end of
    text.
    """
    start, end = text_ends(tokenizer)
    if special_tokens(tokenizer) and prompt.startswith(start):
        start = ""  # it is written in the file already
    if end and answer.rstrip().endswith(end):
        answer, end = answer.rstrip(), ""
    before = start + prompt
    try:
        return example_of_text(tokenizer, before + answer + end, [(len(before), len(before + answer + end))])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def text_ends(tokenizer) -> tuple[str, str]:
    """(the BOS that the tokenizer puts before every text, the token that ends a text); "" where
    there is none.
    """
    chat = plain_chat(tokenizer)
    prompt = chat.prompt([{"role": "user", "content": "x"}])
    end = chat.eos or next((token for token in special_tokens(tokenizer) if f"'{token}'" in chat.template), "")
    return (chat.bos if chat.bos and prompt.startswith(chat.bos) else ""), end


def _within(example: Example, context: int) -> tuple[Example, bool]:
    """An example without what lies behind the context, and whether there was such."""
    kept = context + 1  # the last token is a target only
    is_cut = len(example.ids) > kept
    return example._replace(ids=list(example.ids[:kept]), learned=example.learned[:kept]), is_cut


def _said(pair) -> list[str]:
    if isinstance(pair, TextPair):
        return [pair.prompt, pair.chosen, pair.rejected]
    return [str(each.get("content", "")) for side in (pair.chosen, pair.rejected) for each in side.messages]
