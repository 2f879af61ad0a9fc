"""The small model of the lessons: trained once, in about 15 seconds, and cached."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from minillm.data.corpora import cache_folder, load_text
from minillm.files.atomic import locked
from minillm.lessons.waiting import waiting
from minillm.models.language_model import LanguageModel
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.training import TrainingSettings, start_run, train
from minillm.version import __version__

CORPUS = "python-docs"
MODEL = dict(n_layer=2, n_head=4, d_model=128, context_length=64, bias=False)
TRAINING = TrainingSettings(
    data=(CORPUS,),
    tokenizer="bpe",
    vocab_size=512,
    batch_size=16,
    max_steps=500,
    eval_interval=250,
    eval_windows=64,
    sample_tokens=0,
    lr=4e-3,
    min_lr=4e-4,
    warmup_steps=50,
)


class SmallModel(NamedTuple):
    """A trained model with its tokenizer; `untrained` is the same model before its first step."""

    model: LanguageModel
    tokenizer: Tokenizer
    untrained: LanguageModel
    folder: Path


@lru_cache(maxsize=1)
def small_model() -> SmallModel:
    """The model, in evaluation mode. The first call on a machine trains it.

    If the cache folder cannot be written, it is trained again for each process.
    """
    folder = cache_folder() / f"lesson-model-{_fingerprint()}"
    if not (folder / "config.json").is_file():
        folder = _train_into(folder)
    model = from_pretrained(folder)
    untrained = type(model)(model.config, seed=TRAINING.seed)
    return SmallModel(model.eval(), tokenizer_of(folder), untrained.eval(), folder)


def _train_into(folder: Path) -> Path:
    """Train in a temporary folder beside `folder` and rename it.

    Other processes wait for the result.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            return folder if (folder / "config.json").is_file() else _train_beside(folder)
    except OSError:  # the cache folder cannot be written
        return _train_beside(Path(tempfile.mkdtemp(prefix=folder.name)) / "kept")


def _train_beside(folder: Path) -> Path:
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    print(f"training the lessons' small model, once; it is kept in {folder.parent}", file=sys.stderr)
    with waiting(f"training the small model: {TRAINING.max_steps} steps, about 15 seconds on an idle machine"):
        ended = train(start_run(TRAINING, MODEL, partial / "run"))
    if ended != "finished":  # Ctrl-C: what is half trained is not kept
        shutil.rmtree(partial, ignore_errors=True)
        raise KeyboardInterrupt
    (partial / "run").rename(folder)
    shutil.rmtree(partial, ignore_errors=True)
    return folder


def _fingerprint() -> str:
    """A hash of what the model depends on: settings, version, and the text, which differs between
    Pythons.
    """
    settings = f"{__version__} {TRAINING} {MODEL}"
    return hashlib.sha256((settings + load_text([CORPUS])).encode()).hexdigest()[:12]
