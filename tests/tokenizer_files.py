"""Small tokenizer.json files in the styles of well-known repositories, learned here, and texts to try them with."""

import json
import random

import pytest

TEXT = (
    "The quick brown fox jumps over the lazy dog; the dogs don't care. We're DON'T 12 2026 3.14159 1,000,000!\n\n\t"
    "def f(x):\r\n    return  x   # twice\n\n\nGrüße aus Köln, 東京は日本の首都です。 नमस्ते 👩‍👩‍👧 "
    "e\u0301 ﬁn\u00a0nbsp\u3000wide\x85next "
    "once upon a time there was a little girl and she said hello world to everyone in the whole wide world again\n"
) * 3
SPACE = "▁"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = BYTE_LEVEL | {"use_regex": False}


def added(index, content, special=True, **flags):
    """An entry of added_tokens."""
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, **base, **flags, "special": special}


def split(expression, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def template(before=(), after=()):
    """The post-processor for (text, id) pairs before and after."""
    special = [[{"SpecialToken": {"id": text, "type_id": 0}} for text, _ in side] for side in (before, after)]
    known = {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in (*before, *after)}
    single = [*special[0], {"Sequence": {"id": "A", "type_id": 0}}, *special[1]]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}


def learned(size, pre_tokenizer, alphabet=(), special=(), normalizer=None, **options):
    """The contents of a tokenizer.json of BPE, learned from TEXT by the library `tokenizers`."""
    tokenizers = pytest.importorskip("tokenizers", reason="comparison with the package tokenizers")
    base = {"model": {"type": "BPE", "vocab": {}, "merges": [], **options}, "pre_tokenizer": pre_tokenizer}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(base | {"added_tokens": [], "normalizer": normalizer}))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=list(alphabet), special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return json.loads(tokenizer.to_str())


def byte_level(pre_tokenizer, tokens, size=420, first_id=None, **changes):
    """Byte-level contents with added tokens after the vocabulary: (content, special, flags) each."""
    import tokenizers

    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    contents = learned(size, pre_tokenizer, alphabet)
    start = len(contents["model"]["vocab"])
    contents["added_tokens"] = [
        added(start + n, text, *more[:1], **(more[1] if more[1:] else {})) for n, (text, *more) in enumerate(tokens)
    ]
    return contents | {"decoder": BYTE_LEVEL} | changes


def gpt2_old():
    contents = byte_level(BYTE_LEVEL, [("<|endoftext|>", True, {"normalized": True})], post_processor=BYTE_LEVEL)
    model = contents["model"]
    model["vocab"]["<|endoftext|>"] = len(model["vocab"])  # it is in the vocabulary, too
    merges = [" ".join(merge) for merge in model["merges"]]
    old = {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
    }
    contents["model"] = {**old, "vocab": model["vocab"], "merges": merges}
    for name in ("pre_tokenizer", "decoder", "post_processor"):
        contents[name] = {name: value for name, value in BYTE_LEVEL.items() if name != "use_regex"}
    return contents


def llama3():
    names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        *(f"<|reserved_special_token_{n}|>" for n in range(253)),
    ]
    pre_tokenizer = sequence(split(LLAMA3), BYTES_ONLY)
    contents = byte_level(pre_tokenizer, [(name, True) for name in names])
    start = contents["added_tokens"][0]["id"]
    contents["model"] |= {"ignore_merges": True}
    contents["model"]["merges"] = contents["model"]["merges"][:-20]  # tokens that no merges lead to
    both = [BYTE_LEVEL, template([("<|begin_of_text|>", start)])]
    return contents | {"post_processor": {"type": "Sequence", "processors": both}}


def tekken():
    """The control tokens come first."""
    import tokenizers

    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"]
    pre_tokenizer = sequence(split(TEKKEN), BYTES_ONLY)
    contents = learned(420, pre_tokenizer, tokenizers.pre_tokenizers.ByteLevel.alphabet(), special)
    contents["model"] |= {"ignore_merges": True}
    return contents | {"decoder": BYTE_LEVEL, "post_processor": template([("<s>", 1)])}


def phi2():
    runs = [(" " * n, False, {"normalized": True}) for n in range(31, 1, -1)]
    tabs = [("\t" * n, False, {"normalized": True}) for n in range(9, 1, -1)]
    return byte_level(BYTE_LEVEL, [("<|endoftext|>", True), *runs, *tabs], post_processor=BYTE_LEVEL)


def odd_flags():
    """Added tokens with every flag."""
    tokens = [
        ("<mask>", True, {"lstrip": True}),
        ("<sep>", True, {"rstrip": True}),
        ("<both>", False, {"lstrip": True, "rstrip": True}),
        ("the", False, {"single_word": True}),
        ("Hello", False, {"normalized": True}),
        ("Hello world", False, {"normalized": True, "rstrip": True}),
        ("  ", False, {"normalized": True}),
        ("</think>", False, {}),
    ]
    return byte_level(BYTE_LEVEL, tokens, normalizer={"type": "Lowercase"})


CHARACTERS = sorted(set(TEXT.replace(" ", SPACE)))[:70]


def llama(scheme, tokens=(), unknown_bytes=False, **changes):
    """Llama-2-like contents. scheme: "normalizer", or prepend_scheme of Metaspace."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    by_metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    contents = learned(
        600,
        by_metaspace,
        CHARACTERS,
        ["<unk>", "<s>", "</s>", *bytes_],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    # the learner takes every character of the text; those that are rare go, so that bytes are needed
    rare = [character for character in contents["model"]["vocab"] if len(character) == 1 and ord(character) > 0x3000]
    contents["model"]["merges"] = [m for m in contents["model"]["merges"] if not set("".join(m)) & set(rare)]
    kept = {token for m in contents["model"]["merges"] for token in (m[0], m[1], m[0] + m[1])} | set(CHARACTERS) - set(
        rare
    )
    names = [*["<unk>", "<s>", "</s>"], *bytes_, *sorted(kept)]
    if unknown_bytes:
        names = [name for name in names if name not in ("<0xE6>", "<0xF0>")]
    contents["model"]["vocab"] = {name: index for index, name in enumerate(names)}
    ids = dict(contents["model"]["vocab"])
    ids |= {text: len(ids) + n for n, text in enumerate(text for text, *_ in tokens if text not in ids)}
    contents["added_tokens"] = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")] + [
        added(ids[text], text, *more[:1], **(more[1] if more[1:] else {})) for text, *more in tokens
    ]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]}
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    old = scheme == "normalizer"
    back = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = [] if scheme == "never" else [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return contents | {
        "normalizer": prepend if old else None,
        "pre_tokenizer": None if old else metaspace,
        "post_processor": template([("<s>", 1)]),
        "decoder": {"type": "Sequence", "decoders": back + strip},
        **changes,
    }


def gemma():
    runs = (
        [(" " * n, False) for n in range(2, 9)] + [("\n" * n, False) for n in range(2, 5)] + [("<start_of_turn>", True)]
    )
    contents = llama(
        "never", [(SPACE * len(text) if text.isspace() and text[0] == " " else text, *more) for text, *more in runs]
    )
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    at_spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return contents | {
        "normalizer": replace,
        "pre_tokenizer": at_spaces,
        "post_processor": template([("<s>", 1)], [("</s>", 2)]),
    }


def words():
    """BPE over the characters of words, with an unknown token and no decoder."""
    contents = learned(300, {"type": "Whitespace"}, special=["[UNK]"], unk_token="[UNK]")
    rare = [character for character in contents["model"]["vocab"] if len(character) == 1 and ord(character) > 0x2000]
    merges = [merge for merge in contents["model"]["merges"] if not set("".join(merge)) & set(rare)]
    kept = [token for token in contents["model"]["vocab"] if not set(token) & set(rare) or token == "[UNK]"]
    contents["model"] |= {"merges": merges, "vocab": {token: index for index, token in enumerate(kept)}}
    accents = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]}
    strip = {"type": "Strip", "strip_left": True, "strip_right": False}
    return contents | {"normalizer": {"type": "Sequence", "normalizers": [strip, accents]}}


def deepseek():
    steps = [
        split(r"[\r\n]"),
        split(r"\s?\p{L}+"),
        split(r"\s?\p{P}+"),
        split("[一-龥ࠀ-一가-퟿]+"),
        {"type": "Digits", "individual_digits": True},
        BYTES_ONLY,
    ]
    tokens = [("<｜begin▁of▁sentence｜>", True), ("<think>", False, {"normalized": True}), ("</think>", False, {})]
    contents = byte_level(sequence(*steps), tokens)
    start = contents["added_tokens"][0]["id"]
    return contents | {
        "normalizer": {"type": "Sequence", "normalizers": []},
        "post_processor": template([(tokens[0][0], start)]),
    }


INST = [("[INST]", True), ("[/INST]", True), ("[TOOL]", False, {"normalized": True})]
PHI3 = [
    ("<|endoftext|>", True),
    ("<|assistant|>", True, {"rstrip": True}),
    ("<|end|>", True, {"rstrip": True}),
    ("</x>", False, {"rstrip": True}),
    ("<|word|>", False, {"single_word": True, "lstrip": True}),
]
ROBERTA = {
    "type": "RobertaProcessing",
    "sep": ["</s>", 2],
    "cls": ["<s>", 1],
    "trim_offsets": True,
    "add_prefix_space": True,
}
KINDS = {
    "gpt2 old": gpt2_old,
    "gpt2 new": lambda: byte_level(BYTE_LEVEL, [("<|endoftext|>", True)], post_processor=BYTE_LEVEL),
    "gpt2 as a split": lambda: byte_level(sequence(split(GPT2), BYTES_ONLY), [("<|endoftext|>", True)]),
    "llama 2 old": lambda: llama("normalizer"),
    "llama 2 new": lambda: llama("first", [("<pad>", True)]),
    "llama always": lambda: llama("always", [("<|im_start|>", True), ("<|im_end|>", True)]),
    "llama never, whole pieces": lambda: whole(llama("never")),
    "llama without some bytes": lambda: llama("first", unknown_bytes=True),
    "llama 3": llama3,
    "mistral v1": lambda: llama("normalizer", INST),
    "mistral v3": tekken,
    "qwen2": lambda: byte_level(
        sequence(split(QWEN2), BYTES_ONLY | {"trim_offsets": False}),
        [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<tool_call>", False)],
        normalizer={"type": "NFC"},
    ),
    "smollm": lambda: byte_level(
        sequence({"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
        [("<|im_start|>", True), ("<|im_end|>", True)],
    ),
    "phi 2": phi2,
    "phi 3": lambda: llama("normalizer", PHI3, post_processor=None),
    "gemma": gemma,
    "deepseek": deepseek,
    "words": words,
    "every flag": odd_flags,
    "a space in front": lambda: byte_level(BYTE_LEVEL | {"add_prefix_space": True}, [("<s>", True), ("x  ", False)]),
    "digits in groups": lambda: byte_level(
        sequence({"type": "Digits", "individual_digits": False}, {"type": "Punctuation"}, BYTE_LEVEL), []
    ),
    "metaspace, split": lambda: llama(
        "first",
        INST,
        pre_tokenizer={"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True, "str_rep": SPACE},
        decoder={"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"},
        post_processor=ROBERTA,
    ),
}


def whole(contents):
    contents["model"] |= {"ignore_merges": True}
    return contents


FRAGMENTS = (
    list("abcdehlostT 's,.;-_()<>|[]/12239")
    + (
        "the The HELLO Hello world don't we're 12345 3.14 東京 नमस्ते é e\u0301 \u0301 ﬁ ß ſ İ ŉ Σ "
        "👩‍👧 😀 🏽 \u200d \ufe0f ▁ ▁▁ Ġ Ċ â "
        "\u00ad \ufeff \ud7ff \ue000 \uffff \U0010ffff ² Ⅷ ٣ <0x41> <0xE6> <0xZZ> <| |> <|im_start <|endof [INST <s </"
    ).split()
)
BLANKS = [
    "\n",
    "\r\n",
    "\t",
    "  ",
    "   ",
    "\n\n",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x85",
    "\x1c",
    "\x0b",
    "\x00",
    "\r",
    " ",
    " ",
    " ",
]


def texts(contents, count, seed=0):
    """Random texts with the added tokens of a tokenizer in them, parts of these, and characters of every odd kind."""
    rng = random.Random(seed)
    tokens = [token["content"] for token in contents["added_tokens"]][:40]
    pools = [
        FRAGMENTS,
        FRAGMENTS,
        BLANKS,
        tokens or FRAGMENTS,
        [text[:-1] for text in tokens] + [text[1:] for text in tokens] or BLANKS,
    ]
    yield from ("", " ", "  ", "a", " a", SPACE, *tokens)
    for _ in range(count):
        parts = [rng.choice(rng.choice(pools)) for _ in range(rng.randrange(1, 14))]
        yield "".join(parts)
