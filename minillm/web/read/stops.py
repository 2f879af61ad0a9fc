"""The ten stops of the tour, in reading order, with what the engine computes for each question."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np

from minillm.layers.attention import attention_backward, attention_forward
from minillm.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minillm.layers.embedding import embedding_backward, embedding_forward
from minillm.layers.gelu import gelu_backward, gelu_forward
from minillm.layers.layer_norm import layer_norm_backward, layer_norm_forward
from minillm.layers.linear import linear_backward, linear_forward
from minillm.layers.residual import residual_backward, residual_forward
from minillm.layers.softmax import softmax_forward
from minillm.lessons import gpt_page
from minillm.optim.adamw import adamw_formula
from minillm.web.read.tour import Choice, Stop


@cache
def linear() -> SimpleNamespace:
    """y = x w + b for 2 texts of 3 tokens, and its backward pass."""
    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.normal(size=shape) for shape in ((2, 3, 4), (4, 5), 5, (2, 3, 5)))
    _, saved = linear_forward(x, w, b)
    dx, dw, db = linear_backward(dy, saved)
    return SimpleNamespace(dy=dy, db=db)


def repeated_token() -> float:
    """The gradient of row 5 of a table that was read by the ids 5, 2, 5."""
    _, saved = embedding_forward(np.array([5, 2, 5]), np.zeros((6, 1)))
    return float(embedding_backward(np.array([[0.5], [2.0], [0.25]]), saved)[5, 0])


@cache
def even_push() -> SimpleNamespace:
    """Layer norm of a row, where the gradient that arrives is 2 in every channel."""
    x = np.random.default_rng(0).normal(size=(1, 8))
    _, saved = layer_norm_forward(x, np.ones(8), np.zeros(8))
    dx, _, _ = layer_norm_backward(np.full((1, 8), 2.0), saved)
    return SimpleNamespace(dx=dx, rstd=saved.rstd, normed=saved.normed)


def wrong_guess() -> np.ndarray:
    """dlogits where p is (0.7, 0.2, 0.1) and the second token came."""
    _, saved = cross_entropy_forward(np.log([[0.7, 0.2, 0.1]]), np.array([1]))
    return cross_entropy_backward(1.0, saved)[0]


def slope_at_zero() -> float:
    """dy/dx of GELU at x = 0."""
    _, saved = gelu_forward(np.zeros((1, 1)))
    return float(gelu_backward(np.ones((1, 1)), saved)[0][0, 0])


def readers_of_the_first() -> float:
    """How many of 4 tokens have a dy that reaches dv of the first."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 1, 4, 2)) for _ in range(3))
    reached = 0
    for token in range(4):
        dy = np.zeros((1, 1, 4, 2))
        dy[:, :, token] = 1
        _, _, dv = attention_backward(dy, attention_forward(q, k, v)[1])
        reached += bool(dv[0, 0, 0].any())
    return float(reached)


@cache
def two_paths() -> SimpleNamespace:
    """y = x + x w, and its backward pass: the gradients of the two paths, and of x."""
    rng = np.random.default_rng(0)
    x, w, dy = (rng.normal(size=shape) for shape in ((3, 4), (4, 4), (3, 4)))
    branch, saved = linear_forward(x, w)
    _, saved_sum = residual_forward(x, branch)
    direct, dbranch = residual_backward(dy, saved_sum)
    through = linear_backward(dbranch, saved)[0]
    return SimpleNamespace(dy=dy, through=through, dx=direct + through)


@cache
def absent_token() -> SimpleNamespace:
    """The gradient of every row of gpt_page's table of 7 tokens, for a text without token 6."""
    w = gpt_page.new_weights(7, 4, 8, 1, np.random.default_rng(0))
    ids, targets = np.array([[0, 1, 2, 3]]), np.array([[1, 2, 3, 4]])
    logits, saved = gpt_page.forward(w, ids, 2)
    _, dlogits = gpt_page.cross_entropy(logits, targets)
    gradients = gpt_page.backward(w, dlogits, saved)["wte.weight"]
    as_head = np.einsum("btv,btc->vc", dlogits, saved[2])
    return SimpleNamespace(row=gradients[6], as_head=as_head[6], others=gradients[:6].mean(axis=0))


def first_step() -> float:
    """How far AdamW moves a weight whose gradient is 0.001, in its first step with lr = 0.1."""
    w, zero = np.array([1.0]), np.zeros(1)
    moved, _, _ = adamw_formula(w, np.array([0.001]), zero, zero, 0.1, (0.9, 0.99), 1e-8, 0.0, 1)
    return float(abs(moved - w)[0])


@cache
def kept_row() -> SimpleNamespace:
    """A row of scores, its probabilities, and what a flash kernel could keep of it."""
    s = np.array([1.0, 3.0, 2.5, -1.0])
    m = s.max()
    l = np.exp(s - m).sum()  # noqa: E741, the papers' letter
    return SimpleNamespace(s=s, m=m, l=l, L=m + np.log(l), p=softmax_forward(s.copy())[0])


STOPS = (
    Stop(
        "linear",
        "Linear: which axis does dbias sum over?",
        "Every token goes through the same matrix, and gets the same bias added.",
        "`y = x @ weight + bias` with `x (B, T, I)` and `dy (B, T, O)`. What is `dbias`?",
        lambda: linear().db,
        "Count how many elements of y one element of bias has a part in.",
        choices=(
            Choice(
                "`dy` summed over the last axis: `(B, T)`",
                lambda: linear().dy.sum(axis=-1),
                "That adds up gradients of different biases. A gradient has the shape of its weight, and bias is `(O,)`.",
            ),
            Choice(
                "`dy` summed over B and T: `(O,)`",
                lambda: linear().dy.sum(axis=(0, 1)),
                "Right. `bias_o` was added to output o of every token, so the chain rule sums over all B T tokens. What "
                "is shared forward is summed backward.",
            ),
            Choice(
                "the mean of `dy` over B and T: `(O,)`",
                lambda: linear().dy.mean(axis=(0, 1)),
                "The shape is right, but the chain rule sums. A mean is taken once, in the loss, and dy has it already.",
            ),
            Choice(
                "`dy` itself: `(B, T, O)`",
                lambda: linear().dy,
                "That would be a bias of its own for every token. There is one for all.",
            ),
        ),
    ),
    Stop(
        "embedding",
        "Embedding: a token that occurs twice",
        "Forward only looks rows of a table up: `y = weight[ids]`.",
        "The ids are 5, 2, 5, and the rows of `dy` are 0.5, 2 and 0.25 (C = 1). What is `dweight[5]`?",
        repeated_token,
        "Row 5 has a part in the first and in the third row of y.",
        slips=(
            (0.25, "That is the last one alone. `dweight[ids] += dy` does just that in NumPy: the bug this question is about."),
            (0.5, "That is the first one alone. The token occurs a second time."),
            (0.375, "That is the mean of both. The chain rule adds them."),
            (2.75, "That has the gradient of token 2 in it, which belongs to row 2."),
            (0.125, "That is the product. Two paths to the loss add up."),
        ),
        reply="Right: 0.5 + 0.25. A row that is used twice gets both gradients.",
    ),
    Stop(
        "layer_norm",
        "Layer norm: a push that cannot move anything",
        "Every row is brought to mean 0 and variance 1, whatever it was.",
        "`weight` is 1, and `dy` is 2 in every channel of a row. What is `dx`?",
        lambda: even_push().dx,
        "Add the same number to every x of a row. What does y do?",
        choices=(
            Choice(
                "2 in every channel",
                lambda: np.full((1, 8), 2.0),
                "That is `dy`. But x does not reach y unchanged: the mean of the row is taken out of it.",
            ),
            Choice(
                "`2 * rstd` in every channel",
                lambda: np.full((1, 8), 2.0) * even_push().rstd,
                "That is the direct path only. Through the mean, every x_i acts on all of the row.",
            ),
            Choice(
                "`2 * rstd * normed`",
                lambda: 2 * even_push().rstd * even_push().normed,
                "The component along `normed` is what the path through rstd takes away; it is 0 here.",
            ),
            Choice(
                "0 in every channel",
                lambda: np.zeros((1, 8)),
                "Right. The same push on all channels moves the mean of the row, which is taken out. So `dx` is `dy` "
                "without its mean, and here nothing is left.",
            ),
        ),
    ),
    Stop(
        "cross_entropy",
        "Softmax and cross-entropy: how wrong was the guess?",
        "The loss is -log of the probability that the model gave to the token that came.",
        "The model says p = (0.7, 0.2, 0.1), and the second token comes. What is the gradient of the three logits?",
        wrong_guess,
        "Softmax ties the logits together: raising one probability lowers the others.",
        choices=(
            Choice(
                "(0.7, -0.8, 0.1)",
                lambda: np.array([0.7, -0.8, 0.1]),
                "Right: p - onehot. The token that came is pushed up by what was missing, 1 - 0.2, and the others down by "
                "what they had.",
            ),
            Choice(
                "(0, -0.8, 0)",
                lambda: np.array([0, -0.8, 0]),
                "Only p_t is in the loss, but every logit is in p_t, by way of the sum. The three numbers must add up to 0.",
            ),
            Choice(
                "(0, -5, 0)",
                lambda: np.array([0, -5.0, 0]),
                "That is the gradient of the probabilities, -1/p_t. The softmax below it is missing, which cancels it.",
            ),
            Choice(
                "(0.7, 0.2, 0.1)",
                lambda: np.array([0.7, 0.2, 0.1]),
                "That is the gradient of log sum exp alone. The loss has - z_t, too.",
            ),
        ),
    ),
    Stop(
        "gelu",
        "GELU: a soft switch",
        "GELU lets x through in proportion to a gate between 0 and 1 that depends on x: `y = x * gate(x)`.",
        "What is the slope dy/dx at x = 0?",
        slope_at_zero,
        "The product rule: dy/dx = gate(x) + x gate'(x). How open is the gate in the middle?",
        slips=(
            (0, "y is 0 there, but not its slope: the gate is half open at x = 0. (ReLU has no slope there at all.)"),
            (1, "That is the slope far to the right, where the gate is open."),
            (0.7978845608, "That is the slope of u inside of the tanh, sqrt(2/pi). It is multiplied by x, which is 0."),
        ),
        reply="Right: gate(0) = 1/2, and x gate'(x) is 0 there. So a GELU passes half of the gradient where ReLU has its kink.",
    ),
    Stop(
        "attention",
        "Attention: who reads the first token?",
        "Token i averages the values of the tokens j <= i, with its attention as weights: `y = p @ v`.",
        "A text has 4 tokens. The `dy` of how many of them reach `dv` of the first?",
        readers_of_the_first,
        "dv_j = sum_i p_ij dy_i: which i have p_ij > 0 for j = first?",
        slips=(
            (1, "That is so for the last token, which only itself sees. The first one is seen by all."),
            (3, "The tokens after it, and itself: j <= i allows i = j."),
            (0, "A token is read by itself and by all after it."),
        ),
        reply="Right: every token sees the first, so dv of the first is a sum over all 4, and dv of the last is of one alone. "
        "Forward the information goes to later tokens; the gradient goes back to earlier ones.",
    ),
    Stop(
        "residual",
        "Residual: x occurs twice",
        "A block adds to the stream: `y = x + branch(x)`.",
        "x occurs twice in this line. What is `dx`?",
        lambda: two_paths().dx,
        "Move x a little: y moves for two reasons.",
        choices=(
            Choice(
                "`dy`",
                lambda: two_paths().dy,
                "That is the direct path. The branch read x as well.",
            ),
            Choice(
                "what comes back through the branch",
                lambda: two_paths().through,
                "That is what a network without the + x has. The direct path is missing, which keeps deep models trainable.",
            ),
            Choice(
                "`dy` and what comes back through the branch, added",
                lambda: two_paths().dy + two_paths().through,
                "Right. One gradient for each use, added up. The first is dy, unchanged: it arrives whole at every depth.",
            ),
            Choice(
                "the mean of both",
                lambda: (two_paths().dy + two_paths().through) / 2,
                "Nothing is averaged: each use contributes its whole effect on the loss.",
            ),
        ),
    ),
    Stop(
        "gpt_page",
        "The whole model: a token that never came",
        "All parts are put together on one page. The table of tokens `wte` is read at the start, and is the output head, too.",
        "Token 6 is in no text of the batch, neither as input nor as target. What is its row of the gradient of `wte`?",
        lambda: absent_token().row,
        "Which logits does row 6 of the head compute?",
        choices=(
            Choice(
                "0: no text looked it up",
                lambda: np.zeros(8),
                "As an embedding it has no part in the loss. But the same row is a column of the head.",
            ),
            Choice(
                "the gradient of the head: the sum of `dlogits[..., 6] * n` over all tokens",
                lambda: absent_token().as_head,
                "Right. The head gave token 6 a probability at every place, and each of them is pushed down. Only the part of "
                "the embedding is 0: a tied weight gets the sum of both.",
            ),
            Choice(
                "the mean of the other rows' gradients",
                lambda: absent_token().others,
                "Rows do not share gradients: each gets those of its own uses.",
            ),
        ),
    ),
    Stop(
        "adamw",
        "AdamW: the size of a step",
        "AdamW divides the mean of the gradient by its usual size.",
        "A weight has the gradient 0.001. How far does it move in the first step, with lr = 0.1 and no weight decay?",
        first_step,
        "At t = 1 both means are of one gradient. What is m^ / sqrt(v^)?",
        slips=(
            (0.0001, "That is lr times the gradient: plain gradient descent (SGD)."),
            (0.00001, "m is 0.1 g after one step, but m^ = m / (1 - b1) is g again; and it is divided by sqrt(v^)."),
            (0.01, "m is 0.1 g after one step and v is 0.01 g^2; both are scaled up, since they began at 0."),
            (0.001, "That is the gradient. Its size cancels: m^ / sqrt(v^) = g / |g|."),
        ),
        reply="Right: m^ / sqrt(v^) = g / |g| = 1, so the first step is lr, whether the gradient is 0.001 or 1000.",
    ),
    Stop(
        "attention_flash",
        "Flash attention: what must be kept?",
        "The T x T matrix P is never stored. Backward computes the scores s again, from q and k.",
        "Which one number for each query, kept from forward, makes p of s? (m: the largest score; l: the sum of exp(s - m))",
        lambda: kept_row().p,
        "p_j = exp(s_j - m) / l. Write the division into the exponent.",
        choices=(
            Choice(
                "m: p = exp(s - m)",
                lambda: np.exp(kept_row().s - kept_row().m),
                "These numbers do not overflow, but they do not add up to 1 either: the division by l is missing.",
            ),
            Choice(
                "l: p = exp(s) / l",
                lambda: np.exp(kept_row().s) / kept_row().l,
                "l is the sum of exp(s - m). Without m these are too large by the factor exp(m), and overflow.",
            ),
            Choice(
                "L = m + log l: p = exp(s - L)",
                lambda: np.exp(kept_row().s - kept_row().L),
                "Right: exp(s - m - log l) = exp(s - m) / l. T numbers are kept in place of T x T, and backward makes p of them "
                "tile by tile.",
            ),
            Choice(
                "the mean of the scores: p = exp(s - mean)",
                lambda: np.exp(kept_row().s - kept_row().s.mean()),
                "A shift of all scores does not change p, but p must add up to 1, and these numbers do not.",
            ),
        ),
    ),
)
