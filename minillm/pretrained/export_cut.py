"""How a byte-level tokenizer cuts text, as a name that llama.cpp knows: tokenizer.ggml.pre.

A wrong name means wrong tokens, and no error. The name is that of the tokenizer's own pattern. A
tokenizer.json that says the same by other means, another spelling or several steps, is known by the
pieces into which it cuts the texts below, every one of them.
"""

from __future__ import annotations

from minillm.errors import UserError
from minillm.pretrained.gguf_tokenizer import CUTS, Cut
from minillm.tokenizers.byte_pair import BytePairTokenizer
from minillm.tokenizers.patterns import PATTERNS, compile_pattern, pattern_name, pieces

# the first name of each cut in llama.cpp's own converter
WRITTEN = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "gpt-4o", "tekken")
TEXTS = (
    "It's 1 22 333 4444 55555 words, THEY'LL DON'T he'd 'S 'Re, x's\nnew\r\n\r\n line \n\n\n  end   ",
    "CamelCase HTTPServer iPhone a/b//c !!! ...?\n/ (x)[y]{z} $5.00 50% a_b __init__ -- ==\n",
    "   leading \t tabs\t\t\n \n  \n\u00a0\u3000 Grüße ÀÉ Ωmega e\u0301 中文字123三 ½Ⅷ٣٤ 한국어 नमस्ते",
    "👩\u200d👩\u200d👧!😶\u200d🌫️\n\n🚀 \x85 \ufeff'll ''s '' ' a' b'",
)


def pre_tokenizer_names(tokenizer: BytePairTokenizer) -> tuple[str, bool]:
    """(the name of the cut, whether the normalizer that goes with it is the tokenizer's)

    Raises UserError for a way to cut that llama.cpp does not know.
    """
    by_name = tokenizer.pattern and (
        tokenizer.pattern if tokenizer.pattern in PATTERNS else pattern_name(tokenizer.pattern)
    )
    patterns = [by_name] if by_name else [name for name in PATTERNS if _cuts_like(tokenizer, name)]
    names = [name for name in WRITTEN if CUTS[name].pattern in patterns]
    exact = [name for name in names if CUTS[name].ignore_merges == tokenizer.ignore_merges]
    if not exact and names and _merges_make_all(tokenizer):  # then it is the same whether they are ignored
        exact = names
    if not exact:
        way = f"by the pattern {tokenizer.pattern!r:.60}" if tokenizer.pattern else "in several steps"
        raise UserError(
            f"the tokenizer cuts text {way}, for which llama.cpp has no name: export the model to a folder, or train with a "
            f"tokenizer of one of the patterns {', '.join(dict.fromkeys(CUTS[name].pattern for name in WRITTEN))}"
        )
    return exact[0], _normalizes(tokenizer, CUTS[exact[0]])


def _cuts_like(tokenizer: BytePairTokenizer, pattern: str) -> bool:
    known = compile_pattern(pattern)
    return all(tokenizer.cut(text) == pieces(known, text) for text in TEXTS)


def _normalizes(tokenizer: BytePairTokenizer, cut: Cut) -> bool:
    return cut.normalizer is None or tokenizer.contents().get("normalizer") is not None


def _merges_make_all(tokenizer: BytePairTokenizer) -> bool:
    """Whether the merges alone make every token of its bytes."""
    added = {token.id for token in tokenizer.added_tokens}
    return all(tokenizer.merged(token) == [index] for index, token in enumerate(tokenizer.tokens) if index not in added)
