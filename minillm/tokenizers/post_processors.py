"""Post-processors of tokenizer.json: the tokens that are put before and after a text.

    TemplateProcessing, single: <s> A       ids of "a b"  ->  [1, *ids]

>>> template = {"type": "TemplateProcessing", "pair": [], "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
...     {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
>>> read_post_processor(template, "post_processor")
Around(before=(1,), after=())
"""

from __future__ import annotations

from typing import NamedTuple

from minillm.errors import UserError
from minillm.tokenizers.components import OFFSETS_ONLY, REQUIRED, Kind, checked, parts_of, read_component


class Around(NamedTuple):
    """Ids before and after those of a text."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


def read_post_processor(data, where: str) -> Around:
    """Raises UserError for what is not known. The template for pairs of texts is not used here."""
    return Around() if data is None else read_component(data, where, KINDS)


def template_of(before: list[tuple[str, int]], after: list[tuple[str, int]] = ()) -> dict:
    """The post-processor that puts tokens, each as (text, id), around a text."""

    def special(tokens, number):
        return [{"SpecialToken": {"id": text, "type_id": number}} for text, _ in tokens]

    first, second = (
        [*special(before, number), {"Sequence": {"id": name, "type_id": number}}, *special(after, number)]
        for number, name in enumerate("AB")
    )
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first + second,
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in (*before, *after)},
    }


def _sequence(where: str, processors: list) -> Around:
    before, after = (), ()
    for part in parts_of(processors, where, read_post_processor):
        before, after = part.before + before, after + part.after
    return Around(before, after)


def _template(where: str, single: list, pair: list, special_tokens: dict) -> Around:
    pieces = _pieces(single, where)
    texts = [at for at, (kind, _) in enumerate(pieces) if kind == "Sequence"]
    if len(texts) != 1 or pieces[texts[0]][1] != "A":
        raise UserError(f"{where}: the template for one text does not have this text, A, once: {single!r:.60}")
    sides = []
    for part in (pieces[: texts[0]], pieces[texts[0] + 1 :]):
        ids = []
        for _, name in part:
            token = special_tokens.get(name)
            found = token.get("ids") if isinstance(token, dict) else None
            if not isinstance(found, list) or not all(type(index) is int and index >= 0 for index in found):
                raise UserError(f"{where}: the template has {name!r}, of which special_tokens gives no ids")
            checked(token, f"{where}: {name!r}", {"id": (str, ""), "ids": (list, REQUIRED), "tokens": (list, [])})
            ids += found
        sides.append(tuple(ids))
    return Around(*sides)


def _pieces(template: list, where: str) -> list[tuple[str, str]]:
    """("Sequence", "A") or ("SpecialToken", its name) for each part of a template."""
    pieces = []
    for part in template:
        kind, value = next(iter(part.items())) if isinstance(part, dict) and len(part) == 1 else (None, None)
        if (
            kind not in ("Sequence", "SpecialToken")
            or not isinstance(value, dict)
            or not isinstance(value.get("id"), str)
        ):
            raise UserError(f"{where}: {part!r:.60} is no part of a template")
        checked(value, where, {"id": (str, REQUIRED), "type_id": (int, 0)})
        pieces.append((kind, value["id"]))
    return pieces


def _pair_of_tokens(
    where: str, sep: list, cls: list, trim_offsets: bool = True, add_prefix_space: bool = True
) -> Around:
    for token in (sep, cls):
        if len(token) != 2 or not isinstance(token[0], str) or type(token[1]) is not int:
            raise UserError(f"{where}: {token!r:.60} is not a token and its id")
    return Around((cls[1],), (sep[1],))


_SEP_AND_CLS = {"sep": (list, REQUIRED), "cls": (list, REQUIRED)}
KINDS = {
    "TemplateProcessing": Kind(
        _template,
        {"single": (list, REQUIRED), "pair": (list, REQUIRED), "special_tokens": (dict, REQUIRED)},
    ),
    "ByteLevel": Kind(
        lambda where, **offsets: Around(),
        {"add_prefix_space": OFFSETS_ONLY, "trim_offsets": OFFSETS_ONLY, "use_regex": OFFSETS_ONLY},
    ),
    "Sequence": Kind(_sequence, {"processors": (list, REQUIRED)}),
    "BertProcessing": Kind(_pair_of_tokens, _SEP_AND_CLS),
    "RobertaProcessing": Kind(
        _pair_of_tokens, {**_SEP_AND_CLS, "trim_offsets": OFFSETS_ONLY, "add_prefix_space": OFFSETS_ONLY}
    ),
}
