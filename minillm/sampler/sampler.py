"""The sampler: from a model's logits to the next token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from minillm.backend.arrays import contiguous, device_of, to_host
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.kernels import kernel_for
from minillm.sampler.cuts import top_k_ids
from minillm.sampler.draw import cdf_interval, greedy, multinomial
from minillm.sampler.history import History
from minillm.sampler.mirostat import mirostat_update
from minillm.sampler.settings import SamplerSettings
from minillm.sampler.stages import Context, stages_of
from minillm.sampler.trace import TokenTrace, Tracer

FEW = 8  # if top-k keeps less than V / FEW tokens, the later stages work on these alone


class InvalidLogits(UserError):
    """Logits from which no token can be chosen: NaN, +inf, or a row of only -inf. A ValueError.

    The message names the row, and the stage if the model's own logits were valid.
    """


class Sampler:
    """Chooses tokens: logits biased, penalised, divided by the temperature, cut, turned into
    probabilities, one drawn.

        sampler = Sampler(temperature=0.8, top_k=40, seed=0)
        sampler.probabilities(logits)       # (B, V) -> (B, V)
        sampler.sample(logits)              # (B, V) -> (B,)
        sampler.sample(logits, history)     # with penalties: the tokens so far (history.py)

    The settings are the fields of SamplerSettings (settings.py); their order is in stages.py. Each
    call of `sample` is a step and draws one number for each row from the stream (seed, "sample",
    step, row), so the same seed gives the same text.

    Logits may be on any device and of any floating type; they are read as float32 and not changed.
    Raises UserError for invalid settings, InvalidLogits for logits from which nothing can be
    chosen.
    """

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, seed: int = 0, **settings):
        self.settings = SamplerSettings(temperature, top_k, seed, **settings)
        self._stages = stages_of(self.settings)
        self._largest_named = max(self.settings.named_tokens(), key=lambda pair: pair[1], default=None)
        self.reset()

    def reset(self, step: int = 0, mu: float | None = None) -> None:
        """Begin a new text: the first step, and mirostat's first mu. step, mu: go on with one text
        that has so many tokens, after the last of which mirostat had this mu. Without mirostat mu
        is ignored.
        """
        self.step = step
        self._mu = None if mu is None or not self.settings.mirostat_tau else np.array([mu], np.float64)

    @property
    def mu(self) -> np.ndarray | None:
        """Mirostat's largest surprise of the next token of each row (B,), in bits; None before the
        first.
        """
        return self._mu

    def with_settings(self, **settings) -> Sampler:
        """A new sampler with some settings changed."""
        return type(self)(**vars(replace(self.settings, **settings)))

    def probabilities(self, logits, history: History | None = None) -> np.ndarray:
        """logits (B, V)  ->  the probabilities with which a token is drawn at this step (B, V),
        float32.
        """
        logits = _checked(logits)
        p, ids = self._distribution(logits, self._context(logits, history))
        if ids is None:
            return p
        spread = np.zeros(logits.shape, p.dtype)
        np.put_along_axis(spread, ids, p, axis=1)
        return spread

    def sample(self, logits, history: History | None = None) -> np.ndarray:
        """logits (B, V)  ->  one id for each row (B,)"""
        if (ids := self._greedy_on_device(logits, history)) is not None:
            return ids
        logits = _checked(logits)
        context = self._context(logits, history)
        return self._choose(*self._distribution(logits, context), context)[0]

    def trace(self, logits, history: History | None = None, watch: Callable | None = None) -> list[TokenTrace]:
        """As `sample`, but returns for each row a record of the stages and the draw (trace.py).

        watch(name, logits, ids): is called after each stage, as `Tracer.record` is.
        """
        logits, tracer = _checked(logits), Tracer()
        tracer.watch = watch
        tracer.record("model", logits, None)
        context = self._context(logits, history)
        p, ids = self._distribution(logits, context, tracer.record)
        tokens, drawn, uniforms = self._choose(p, ids, context)
        return tracer.finish(tokens, uniforms, [cdf_interval(row, index) for row, index in zip(p, drawn)])

    # --------------------------------------------------------------------------------------------------- step by step

    def _distribution(self, logits, context: Context, record: Callable | None = None):
        """Run all stages; returns probabilities (B, n) and their ids (B, n), None for the whole
        vocabulary.

        record(name, logits, ids) is called after each stage.
        """
        ids = None
        is_greedy = self.settings.temperature == 0
        for stage in self._stages:
            if is_greedy and stage.is_cut:
                continue
            # After a cut that keeps few tokens, the later stages work on these alone: a cut is
            # final.
            if stage.keeps and ids is None and stage.keeps * FEW < logits.shape[1]:
                ids = top_k_ids(logits, stage.keeps)
                logits = np.take_along_axis(logits, ids, axis=1)
            else:
                logits = stage.apply(logits, context)
            if not stage.is_cut:
                refuse_invalid(logits, stage.name)
            if record:
                record(stage.name, logits, ids)
        if is_greedy:
            return np.ones((len(logits), 1), np.float32), greedy(logits)[:, None]
        with np.errstate(over="ignore"):  # the difference may overflow to -inf; its exponential is 0
            p = logits - logits.max(axis=-1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=-1, keepdims=True)
        return p, ids

    def _choose(self, p, ids, context: Context):
        """Draw a token for each row: ids, places in p, and the random numbers, each (B,). Ends the
        step.
        """
        step, self.step = self.step, self.step + 1
        if self.settings.temperature == 0:
            return ids[:, 0], np.zeros(len(p), np.int64), None
        uniforms = np.array([stream(self.settings.seed, "sample", step, row).uniform() for row in range(len(p))])
        places = multinomial(p, uniforms)
        if context.mu is not None:
            drawn = np.take_along_axis(p, places[:, None], axis=1)[:, 0].astype(np.float64)
            self._mu = mirostat_update(context.mu, drawn, self.settings.mirostat_tau, self.settings.mirostat_eta)
        tokens = places if ids is None else np.take_along_axis(ids, places[:, None], axis=1)[:, 0]
        return tokens, places, uniforms

    def _greedy_on_device(self, logits, history):
        """The ids of `sample` where they are those of the largest logits, found where the logits
        are: one number a row is copied to the host. None where there is more to do.
        """
        if self.settings.temperature or any(not stage.is_cut for stage in self._stages) or device_of(logits) == "cpu":
            return None
        kernel = kernel_for("largest", logits)
        if kernel is None or logits.ndim != 2 or not logits.size:
            return None
        self._context(logits, history)  # raises where the vocabulary or the history does not fit
        ids = to_host(kernel.largest(contiguous(logits)))
        if (ids < 0).any():
            return None  # the logits are invalid: what is wrong is said of numbers in host memory
        self.step += 1
        return ids

    def _context(self, logits, history: History | None) -> Context:
        rows, vocabulary = logits.shape
        if self._largest_named and self._largest_named[1] >= vocabulary:
            name, token = self._largest_named
            raise UserError(f"{name} names token {token}, but the vocabulary has only {vocabulary} tokens")
        if history is None:
            needing = [stage.name for stage in self._stages if stage.needs_history]
            if needing:
                raise ValueError(
                    f"{needing[0]} needs the tokens so far: pass them as history (minillm.sampler.History)"
                )
            history = History([[]] * rows, [0] * rows)
        elif len(history.ids) != rows:
            raise ValueError(f"the history has {len(history.ids)} rows, the logits have {rows}")
        if self.settings.mirostat_tau and (self._mu is None or len(self._mu) != rows):
            self._mu = np.full(rows, 2.0 * self.settings.mirostat_tau)
        step = self.step

        def coins() -> np.ndarray:
            return np.array([stream(self.settings.seed, "xtc", step, row).uniform() for row in range(rows)])

        return Context(history, coins, self._mu)


def _checked(logits) -> np.ndarray:
    """The logits as float32 in host memory; they are not written to.

    Raises InvalidLogits naming the row, ValueError for a wrong shape.
    """
    with np.errstate(over="ignore"):  # numbers too large for float32 become inf, and are refused
        logits = np.asarray(to_host(logits), dtype=np.float32)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits have shape {logits.shape}, expected (B, V)")
    refuse_invalid(logits)
    return logits


def refuse_invalid(logits, stage: str = "model") -> None:
    """Raises InvalidLogits for NaN, +inf, or a row of only -inf: the maximum of a row shows all
    three.
    """
    largest_of_rows = logits.max(axis=-1)
    if np.isfinite(largest_of_rows).all():
        return
    row = int(np.argmin(np.isfinite(largest_of_rows)))
    where = "" if stage == "model" else f" after {stage}"
    if largest_of_rows[row] == -np.inf:
        raise InvalidLogits(f"row {row} of the logits is -inf everywhere{where}: no token is left to choose")
    token = int(np.argmax(np.isnan(logits[row]) | (logits[row] == np.inf)))
    raise InvalidLogits(
        f"logits[{row}, {token}] is {logits[row, token]}{where}: a token can only be chosen among numbers"
    )
