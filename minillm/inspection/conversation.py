"""What a model learns from a conversation, token by token, and which conversations share a row: the
results behind `minillm inspect MODEL --chat-data FILE`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import wrap

import numpy as np

from minillm.data.conversations import read_conversations
from minillm.data.packing import pack
from minillm.errors import UserError
from minillm.inspection.table import readable
from minillm.pretrained.chat import Chat
from minillm.pretrained.chat_mask import describe_roles, examples_of, token_bounds

ROWS_SHOWN = 8
LEARNED = ">"  # before tokens that are learned


@dataclass(frozen=True)
class Token:
    """One token of an example: its text, its id, of which role, and whether it is learned."""

    text: str
    id: int
    role: str
    learned: bool


@dataclass(frozen=True)
class ConversationInspection:
    """where: file and line. examples: the tokens of each example that the conversation becomes.

    rows: for each packed row of all conversations of the file (where, tokens) of those in it.
    context_length: the length of a row.
    """

    where: str
    examples: list[list[Token]]
    rows: list[list[tuple[str, int]]]
    left_out: int
    context_length: int


def inspect_conversation(
    chat: Chat, tokenizer, path: Path, line: int | None, context_length: int
) -> ConversationInspection:
    """The conversation in a line of a file, by default the first one, and the rows of the whole
    file.

    Raises UserError for a file or a line that is wrong, and for a line that has no conversation.
    """
    found, _ = read_conversations([path])
    wanted = {f"{path}, line {line}", f"{path}, entry {line}"}
    chosen = next((each for each in found if line is None or each.where in wanted), None)
    if chosen is None:
        raise UserError(f"{path} has no conversation in line {line}; the last one is {found[-1].where}")
    lengths, places, left_out = [], [], 0
    for conversation in found:
        for example in examples_of(chat, tokenizer, conversation):
            if not example.learned[1 : context_length + 1].any():
                left_out += 1
                continue
            lengths.append(min(len(example.ids), context_length + 1) - 1)
            places.append(conversation.where.removeprefix(f"{path}, "))
    rows = [[(places[number], lengths[number]) for number in row] for row in pack(lengths, context_length)]
    examples = [_tokens(chat, tokenizer, chosen, example) for example in examples_of(chat, tokenizer, chosen)]
    return ConversationInspection(chosen.where, examples, rows, left_out, context_length)


def _tokens(chat: Chat, tokenizer, conversation, example) -> list[Token]:
    """The tokens of an example, each with the role of the message that it is written for."""
    ends = [
        (role, len(example.text[:at].encode("utf-8"))) for role, at in describe_roles(chat, conversation, example.text)
    ]
    begins = token_bounds(tokenizer, example.text, example.ids)
    if begins is None:  # a tokenizer that changes the text: about where a token is
        begins = np.linspace(0, ends[-1][1], len(example.ids) + 1)
    roles = [next((role for role, end in ends if begin < end), ends[-1][0]) for begin in begins[:-1]]
    texts = [tokenizer.token_bytes(index).decode("utf-8", "backslashreplace") for index in example.ids]
    learned = example.learned.tolist()
    return [Token(*each) for each in zip(texts, example.ids, roles, learned)]


def format_conversation(inspection: ConversationInspection, every: bool, width: int) -> str:
    """For a terminal: role by role, learned tokens after a `>`, then the packed rows."""
    lines = []
    for number, tokens in enumerate(inspection.examples, start=1):
        part = f", example {number} of {len(inspection.examples)}" if len(inspection.examples) > 1 else ""
        learned = sum(token.learned for token in tokens)
        lines.append(f"{inspection.where}{part}: {len(tokens)} tokens, {learned} of them learned ({LEARNED})")
        if len(tokens) > inspection.context_length + 1:
            lines.append(
                f"cut after {inspection.context_length + 1} tokens: the context is {inspection.context_length}"
            )
        longest = max(len(token.role) for token in tokens)
        for (role, is_learned), group in groupby(tokens, key=lambda token: (token.role, token.learned)):
            head = f"{role:<{longest}} {LEARNED if is_learned else ' '} "
            shown = " ".join(readable(token.text) for token in group)
            lines += wrap(shown, max(width, 40), initial_indent=head, subsequent_indent=" " * len(head),
                          break_on_hyphens=False)  # fmt: skip
        lines.append("")
    return "\n".join([*lines, *_rows(inspection, every)])


def _rows(inspection: ConversationInspection, every: bool) -> list[str]:
    rows, length = inspection.rows, inspection.context_length
    examples, used = sum(map(len, rows)), sum(tokens for row in rows for _, tokens in row)
    if not rows:
        return [f"none of the file has an answer within the context of {length} tokens"]
    lines = [
        f"all {examples:,} examples of the file in {len(rows):,} rows of {length}, {used / len(rows) / length:.0%} full"
    ]
    if inspection.left_out:
        lines.append(f"{inspection.left_out:,} left out: their answers come after the context")
    for number, row in enumerate(rows if every else rows[:ROWS_SHOWN], start=1):
        members = " | ".join(f"{where} ({tokens})" for where, tokens in row)
        free = length - sum(tokens for _, tokens in row)
        lines.append(f"row {number}: {members}" + (f" | empty ({free})" if free else ""))
    if not every and len(rows) > ROWS_SHOWN:
        lines.append(f"{len(rows) - ROWS_SHOWN:,} more rows: --all shows them")
    return lines


def conversation_lines(inspection: ConversationInspection) -> str:
    """A line of JSON for each token, then one for each row."""
    lines = [
        {"example": number, "token": token.text, "id": int(token.id), "role": token.role, "learned": token.learned}
        for number, tokens in enumerate(inspection.examples, start=1)
        for token in tokens
    ]
    lines += [
        {"row": number, "examples": [{"where": where, "tokens": tokens} for where, tokens in row]}
        for number, row in enumerate(inspection.rows, start=1)
    ]
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
