"""The log-probability of a given text by a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minillm.backend.arrays import to_host
from minillm.errors import UserError
from minillm.sampler.probability import entropy, log_softmax


def score_text(model, prompt: Sequence[int], ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities of ids (n,) after a prompt, and the entropies of the model's
    predictions.

    Both in nats, (n,). One pass over the whole text. Raises UserError if it exceeds the context.
    """
    text = np.array([[*prompt, *ids]])
    if text.shape[1] - 1 > model.config.context_length:
        raise UserError(
            f"prompt and text have {text.shape[1]} tokens, the model reads {model.config.context_length}: write fewer tokens"
        )
    training = model.training
    logits = to_host(model.eval().forward(text[:, :-1]))[
        0, len(prompt) - 1 :
    ]  # (n, V), from the prompt's last token on
    model.train(training)
    log_p = log_softmax(logits)
    return np.take_along_axis(log_p, text[0, len(prompt) :, None], axis=1)[:, 0], entropy(np.exp(log_p))
