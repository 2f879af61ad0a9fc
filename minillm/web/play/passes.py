"""The passes behind the view Backward: a text through the model and back, once for each text.

They run a replica of the studio's model. It shares the weights, so that there is one model in
memory, and has gradients and a mode of its own: the studio's stays in evaluation mode.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from queue import Empty, SimpleQueue
from time import monotonic

import numpy as np

from minillm.data import encode_prompt
from minillm.errors import UserError
from minillm.inspection import inspect_text, record
from minillm.inspection.attention_pattern import LayerAttention, observe_attention
from minillm.inspection.recording import Record, Tensor, model_parameters
from minillm.inspection.table import block_of, blocks_shown, folded, json_rows, json_totals
from minillm.inspection.text import encoded_text, named, shifted, turn_dropout_off
from minillm.sampler.probability import log_softmax
from minillm.web.play.heat_maps import SmallMaps, comes_in_parts, plane, small_map_of
from minillm.web.play.studio import Studio
from minillm.web.play.tensor_view import described

MOST_TOKENS = 1025  # of a text, the last of which is only predicted
KEPT_PASSES, KEPT_TENSORS, KEPT_LAYERS = 4, 2, 2
BETWEEN_REPORTS = 0.1  # seconds


class Stopped(Exception):
    """The page that wanted a pass went away."""


@dataclass(frozen=True)
class Pass:
    """What is kept of a pass.

    answer: what the page gets. maps: of each tensor, by name (SmallMaps). places: by name.
    """

    ids: tuple[int, ...]
    answer: dict
    maps: dict[str, dict]
    places: dict[str, object]


@dataclass(frozen=True)
class Opened:
    """A tensor with all its numbers, as matrices. gradient: None for a frozen one.

    description: for the page (tensor_view.py).
    """

    description: dict
    values: np.ndarray
    gradient: np.ndarray | None


class Passes:
    """Passes by text. All methods but `encode` and `run` are called in the studio's worker."""

    def __init__(self, studio: Studio):
        self._studio = studio
        self._passes: OrderedDict[str, Pass] = OrderedDict()
        self._tensors: OrderedDict[tuple, Opened] = OrderedDict()
        self._layers: OrderedDict[tuple, LayerAttention] = OrderedDict()

    @cached_property
    def model(self):
        """The replica."""
        model = self._studio.model.replica()
        turn_dropout_off(model)
        return model

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises UserError for one that no pass can be made over."""
        model, tokenizer = self._studio.model, self._studio.tokenizer
        count, longest = len(encode_prompt(tokenizer, text)), model.config.context_length + 1
        if count > min(longest, MOST_TOKENS):
            limit = f"this model takes {longest}" if longest <= MOST_TOKENS else f"this page shows {MOST_TOKENS}"
            raise UserError(f"the text has {count} tokens, {limit} at most: shorten it")
        return encoded_text(model, tokenizer, text)

    def run(self, text: str) -> Iterator[dict]:
        """Yields {"progress": ...} now and then, and at last {"pass": ...}."""
        self.encode(text)
        progress, stop = SimpleQueue(), threading.Event()
        future = self._studio.worker.submit(self.of, text, _Reporter(self._studio.model, progress.put, stop))
        future.add_done_callback(lambda _: progress.put(None))
        last = monotonic()
        try:
            while (event := _newest(progress)) is not None:
                if monotonic() - last >= BETWEEN_REPORTS:
                    last = monotonic()
                    yield {"progress": event}
            yield {"pass": future.result().answer}
        finally:
            stop.set()

    def of(self, text: str, reporter: Callable | None = None) -> Pass:
        """The pass over a text."""
        if text not in self._passes:
            _keep(self._passes, text, self._made(text, reporter), KEPT_PASSES)
        self._passes.move_to_end(text)
        return self._passes[text]

    def little_maps(self, text: str, names: list[str]) -> dict[str, dict]:
        """Name -> {"values": map, "gradient": map or None} of tensors of the pass over a text."""
        made, parameters = self.of(text), model_parameters(self.model)
        found = {name: made.maps[name] for name in names if name in made.maps}
        for name in found.keys() & parameters.keys():
            found[name]["values"] = found[name]["values"] or small_map_of(parameters[name].value, len(made.ids) - 1)
        return found

    def opened(self, text: str, name: str) -> Opened:
        """A tensor of the pass over a text.

        The pass is run again: it is kept in small pictures, and few tensors are kept whole.
        """
        key = text, name
        if key not in self._tensors:
            made = self.of(text)
            if name not in made.places:
                raise UserError(f'no tensor of this pass is named "{name}": reload the page')
            _keep(self._tensors, key, self._whole(made, name), KEPT_TENSORS)
        return self._tensors[key]

    def attention(self, text: str, block: int) -> LayerAttention:
        """The attention of a block, counted from 0, in the pass over a text."""
        key = text, block
        if key not in self._layers:
            layers = observe_attention(self.model, *shifted(list(self.of(text).ids)))
            if block >= len(layers):
                raise UserError(f"the model has {len(layers)} layers of attention: there is no block {block}")
            _keep(self._layers, key, layers[block], KEPT_LAYERS)
        return self._layers[key]

    def _made(self, text: str, reporter: Callable | None) -> Pass:
        ids = self.encode(text)
        maps, losses = SmallMaps(len(ids) - 1), _Losses(ids)
        layers = set()  # of attention

        def see(tensor: Tensor, which: str, array) -> None:
            if reporter is not None:
                reporter(tensor, which)
            if tensor.call is not None and tensor.call.operation == "attention":
                layers.add(tensor.call.layer)
            losses.see(tensor, which, array)
            maps.see(tensor, which, array)

        inspection = inspect_text(self.model, self._studio.tokenizer, text, see=see)
        recorded = inspection.record
        answer = {"tokens": inspection.tokens, "losses": losses.found}
        answer |= {"heads": self.model.config.n_head, "attention": len(layers)}
        answer |= _table(recorded, self.model.config.n_layer)
        pictures = {tensor.name: maps.of(tensor) for tensor in recorded.tensors}
        return Pass(tuple(ids), answer, pictures, {tensor.name: tensor.place for tensor in recorded.tensors})

    def _whole(self, made: Pass, name: str) -> Opened:
        whole = _Whole(name, made.places[name])
        recorded = record(self.model, *shifted(list(made.ids)), see=whole.see)
        tensor, T = named(recorded, name), len(made.ids) - 1
        values = model_parameters(self.model)[name].value if tensor.place is None else whole.array("values", tensor)
        gradient = whole.array("gradient", tensor)
        description = described(tensor, recorded)
        return Opened(description, plane(values, T), None if gradient is None else plane(gradient, T))


def _table(recorded: Record, count: int) -> dict:
    """The rows of `minillm inspect --json`, and those in which its table folds a block."""
    parts = {"activations": recorded.activations, "parameters": recorded.parameters}
    rows = {kind: json_rows(tensors) for kind, tensors in parts.items()}
    blocks = {tensor.name: block_of(tensor.name) for tensor in recorded.tensors}
    folds = {kind: _of_blocks(folded(tensors, set())) for kind, tensors in parts.items()}
    reads = {tensor.name: [other.name for other in tensor.reads] for tensor in recorded.activations}
    shown = sorted(blocks_shown(count, [], False))
    return {**rows, "folded": folds, "blocks": blocks, "open": shown, "reads": reads, "total": json_totals(recorded)}


def _of_blocks(tensors: list[Tensor]) -> dict[int, dict]:
    folds = [tensor for tensor in tensors if block_of(tensor.name) is not None]
    return {block_of(tensor.name): row for tensor, row in zip(folds, json_rows(folds))}


def _keep(kept: OrderedDict, key, value, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)


def _newest(queue: SimpleQueue):
    """The next event of a queue, or the last of those that wait there, up to the end, None."""
    event = queue.get()
    while event is not None:
        try:
            event = queue.get_nowait()
        except Empty:
            break
    return event


class _Reporter:
    """Says how far a pass is: forward, backward, and then the gradients of the parameters."""

    def __init__(self, model, put: Callable[[dict], None], stop: threading.Event):
        self._blocks, self._put, self._stop = model.config.n_layer, put, stop
        self._step = 0.1 / (2 * len(model.parameters()))
        self._direction, self._at = "forward", 0.0

    def __call__(self, tensor: Tensor, which: str) -> None:
        """Called for each array. Raises Stopped where the page has gone."""
        if self._stop.is_set():
            raise Stopped
        if which == "gradient":
            self._direction = "backward"
        block, at = block_of(tensor.name), self._at
        if tensor.place is None:
            self._direction, at = "parameters", max(0.9, self._at) + self._step
        elif block is not None:
            done = block / self._blocks
            at = 0.4 * done if self._direction == "forward" else 0.9 - 0.5 * done
        self._at = min(1.0, max(at, self._at))
        self._put({"direction": self._direction, "tensor": tensor.name, "done": self._at})


class _Losses:
    """The loss of each token, from the logits before they are overwritten with their gradient."""

    def __init__(self, ids: list[int]):
        self._targets = ids[1:]
        self.found: list[float] = []

    def see(self, tensor: Tensor, which: str, logits) -> None:
        """Takes the next rows of the logits."""
        if which == "values" and tensor.name == "logits":
            logits = np.reshape(logits, (-1, np.shape(logits)[-1]))
            log_p = log_softmax(np.asarray(logits, float))
            targets = self._targets[len(self.found) :][: len(logits)]
            self.found += [-float(row[target]) for row, target in zip(log_p, targets)]


class _Whole:
    """All numbers of one tensor: `see` is what record() calls."""

    def __init__(self, name: str, place):
        self._name, self._place = name, place
        self._parts: dict[str, list[np.ndarray]] = {}

    def see(self, tensor: Tensor, which: str, array) -> None:
        """Copies the array if it is of that tensor."""
        if tensor.place != self._place or (tensor.place is None and (tensor.name, which) != (self._name, "gradient")):
            return
        parts = self._parts.setdefault(which, [])
        if not comes_in_parts(tensor):
            parts.clear()
        parts.append(np.array(array))

    def array(self, which: str, tensor: Tensor) -> np.ndarray | None:
        """The values or the gradient of the tensor, in its shape."""
        parts = self._parts.get(which)
        return None if parts is None else (np.concatenate(parts) if len(parts) > 1 else parts[0]).reshape(tensor.shape)
