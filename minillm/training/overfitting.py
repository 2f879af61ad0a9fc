"""Detecting overfitting: training loss falls while validation loss rises."""

from __future__ import annotations

PATIENCE = 3  # consecutive evaluations that must agree


def overfitting_since(history: list[tuple[int, float, float]]) -> int | None:
    """The step since which validation loss has been rising while training loss fell, or None.

    history: (step, train_loss, val_loss) of each evaluation. The last PATIENCE evaluations or more
    must all be worse on the validation text than the best one before them, and the last must be
    better on the training text.

    >>> overfitting_since([(0, 4.2, 4.2), (10, 2.0, 2.1), (20, 1.5, 2.2), (30, 1.1, 2.4), (40, 0.8, 2.7)])
    20
    >>> overfitting_since([(0, 4.2, 4.2), (10, 2.0, 2.1), (20, 1.5, 2.2), (30, 1.1, 2.0)]) is None
    True
    """
    best = min(range(len(history)), key=lambda index: history[index][2], default=0)
    after = history[best + 1 :]
    if len(after) < PATIENCE or not after[-1][1] < history[best][1]:
        return None
    return after[0][0]


def remedies(settings, dropout: float) -> str:
    """Remedies that the run does not use yet, one line."""
    stop = "" if settings.early_stop else "--early-stop 3, "
    smaller = (
        "a smaller --lora-rank" if settings.lora_rank else "a smaller model" if not settings.init else "a smaller --lr"
    )
    more = "--dropout 0.2" if dropout < 0.2 else "a higher --dropout"
    return f"what helps against overfitting: {stop}{more}, {smaller} or more text (minillm lesson overfitting)"
