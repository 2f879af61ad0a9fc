"""A small model and small files of conversations, for the tests of fine-tuning for chat."""

import json

import minillm
from minillm.tokenizers import CharacterTokenizer

CHARACTERS = CharacterTokenizer.train("User:\nAssistant:\nSystem:\nsay backwards, please. red blue green cat dog")
WORDS = ["red", "blue", "green", "cat", "dog"]
SHAPE = dict(vocab_size=CHARACTERS.vocab_size, context_length=128, n_layer=2, n_head=2, d_model=16)
SETTINGS = dict(
    batch_size=4, max_steps=6, eval_interval=3, eval_windows=4, sample_tokens=5, warmup_steps=2, lr=1e-2, min_lr=1e-3
)


def conversations(count, turns=2):
    """Conversations of different lengths: 'say red cat' is answered by 'red cat.'"""
    found = []
    for number in range(count):
        messages = []
        for turn in range(1 + number % turns):
            words = [WORDS[(number * 7 + turn * 3 + place * (number // 5 + 1)) % 5] for place in range(1 + number % 3)]
            messages.append({"role": "user", "content": f"say {' '.join(words)}"})
            messages.append({"role": "assistant", "content": f"{' '.join(words)}."})
        found.append({"messages": messages})
    return found


def write_lines(path, lines):
    """Write objects as JSON lines; returns the path."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def save_base(folder, kind="gpt2", tokenizer=CHARACTERS, **changes):
    """Save a model that has learned nothing yet; returns the folder's name."""
    shape = {**SHAPE, "vocab_size": tokenizer.vocab_size, **changes}
    made = {"gpt2": (minillm.GPT2, minillm.GPT2Config), "llama": (minillm.Llama, minillm.LlamaConfig)}[kind]
    more = dict(n_kv_head=1, d_ff=32) if kind == "llama" else {}
    made[0](made[1](**shape, **more), seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
