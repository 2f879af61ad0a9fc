"""The cache of generation: what layers keep of the tokens that were read, so that each token is
computed once.

A new token's query reads the keys and values of all tokens before it. These do not depend on later
tokens (attention is causal), so they are kept, and a step computes those of the new token alone.
Without a cache, token T costs a pass over T tokens; with it, a pass over one.

A layer appends what it needs of its new tokens, and gets that of all tokens so far:

    k, v = cache.append(self, k, v)              # attention: (B, H_kv, t, D) -> (B, H_kv, T, D)
    (seen,) = cache.append(self, x, window=2)    # two tokens: (B, t, C) -> (B, n, C)

The last axis but one counts columns, that is, tokens. With a window only the last columns are kept:
the memory is that of window + SPARE + BLOCK columns, however long the text is.

Rows of a batch may be of unequal length: shorter ones are padded at their left, so that every row's
last token is in the last column. A row's positions count from its first real token. Padding columns
hold zeros.
"""

from __future__ import annotations

import sys

import numpy as np

from minillm.backend.arrays import array_module, contiguous, device_of, to_device, to_host
from minillm.backend.precision import is_bfloat16
from minillm.layers.packed_linear import PackedLinear, packing_pays

FIRST_CAPACITY = 128  # columns
SPARE = 64  # columns that are kept beyond a window, so that as many can be truncated
BLOCK = 256  # columns that are appended before a windowed array is moved to the front of its memory


class Cache:
    """What the layers of one model keep of B texts.

    length: how many columns were read before the present pass; count: how many it reads; one_token:
    whether that is one token in all, of a batch of one. shared: a dict for what several layers need
    in this pass; it is empty at its start. on_device: whether the model is on "cuda" or "cudasim";
    layers then use kernels. dtype: in which x travels between layers there; None: as the weights.

    like: an array on the device of the model. padding (B,): how many columns at the start of each
    row hold no token; None if there are none. packed: the dict of packed weights of other caches of
    the same model, to share them.

    A pass over `count` new columns is `start(count)`, one `decode` of the model's body,
    `advance()`.
    """

    def __init__(self, like, B: int, padding=None, packed: dict | None = None, dtype=None):
        self._like, self._B, self.dtype = like, B, dtype
        self.on_device = device_of(like) != "cpu"
        self._packed: dict[tuple, PackedLinear | None] = {} if packed is None else packed
        self._changes = [0]  # how often memory was taken or moved: shared with all columns
        self.restart(padding)

    def restart(self, padding=None) -> None:
        """Forget all columns. Packed weights are kept."""
        self.length = 0
        self._set_padding(padding if padding is not None and np.any(padding) else None)
        self._columns: dict[object, list[_Columns]] = {}
        self.start(0)

    # ------------------------------------------------------------------------------------ in a pass

    def start(self, count: int, place=None) -> None:
        """A pass over `count` new columns begins. place: see there."""
        self.count, self.one_token = count, count * self._B == 1
        self.shared, self._positions, self._hidden, self._place = {}, None, None, place
        self.is_recorded, self.limit = False, sys.maxsize
        self.is_fixed = False  # whether a layer used a number of this pass that will be another in the next
        if self.length < self._most_padding and count:
            self._hidden = self._new_columns() < self.padding[:, None]  # (B, t)

    @property
    def place(self):
        """The first new column as a number in the device's memory, (1,) int64: kernels read it
        there, so that their launches are the same for every token.
        """
        if self._place is None:
            self._place = to_device(np.array([self.length]), device_of(self._like))
        return self._place

    def advance(self) -> None:
        """The pass is over: its columns count as read."""
        self.length += self.count

    def append(self, layer, *arrays, window: int | None = None):
        """Keep arrays (B, ..., t, D) of the new columns; returns those of all columns so far, (B,
        ..., T, D), as views.

        layer: the one that calls. Where it is used at several places of a model, each place has
        columns of its own, which are found by the order of the calls. window: how many columns a
        new one needs, itself included; None for all. With a window, what is returned begins with
        the window of the first new column. Views are valid until the next call.
        """
        self.is_fixed = True
        if self._hidden is not None:
            arrays = [self._zero_where_hidden(x) for x in arrays]
        return self._columns_of(layer, arrays, window).append(arrays)

    def reserve(self, layer, heads: int, width: int, dtype, window: int | None = None):
        """Room for a kernel that writes k and v of the new columns: two arrays (B, H_kv, capacity,
        D), and the column of the text at their start.

        The kernel has to zero hidden columns. None where a window cannot keep so many new columns:
        they are for `append`.
        """
        like = array_module(self._like).empty_like(self._like, shape=(self._B, heads, 0, width), dtype=dtype)
        columns = self._columns_of(layer, (like, like), window)
        return columns.reserve(self.count)

    def _columns_of(self, layer, like, window) -> _Columns:
        places = self._columns.get(layer)
        if places is None:
            places = self._columns[layer] = []
        for columns in places:
            if columns.stop == self.length:  # no call in this pass has used it
                return columns
        places.append(_Columns(like, window, self._changes))
        return places[-1]

    def positions(self):
        """The positions of the new columns: (t,), or (B, t) where rows are padded."""
        if self._positions is None:
            columns = self._new_columns() if not self.on_device else self._new_places()
            if self.padding is not None:
                columns = array_module(columns).maximum(columns - self.padding[:, None], 0)
            self._positions = columns
        return self._positions

    def lengths_of_rows(self) -> list[int]:
        """How many tokens each padded row has, the new ones included."""
        self.is_fixed = True
        return (self.length + self.count - self._host_padding).tolist()

    def padding_in(self, total: int):
        """How many of the last `total` columns, the new ones included, are padding in each row:
        (B,), at most 0 for none.

        None where that is so in all rows.
        """
        before = self.length + self.count - total
        if self.padding is None or not before:
            return self.padding
        return self.padding - before if self._most_padding > before else None

    def packed(self, *linears) -> PackedLinear | None:
        """Linear layers that read the same x as one, with a copy of their weights; None where that
        is not faster.

        It is faster where a pass reads one token in all. The copy is made when the first such token
        is read, and pays after some dozens. It lives as long as this cache: make a new one after
        weights have changed.
        """
        if not self.one_token:
            return None
        try:
            return self._packed[linears]
        except KeyError:
            packed = self._packed[linears] = PackedLinear(linears) if packing_pays(linears) else None
            return packed

    def to_device(self, array):
        """An array on the device of the cache."""
        return to_device(array, device_of(self._like))

    def weight(self, parameter, like):
        """The array of a Parameter for products with `like`, an array on the device: the weight, or
        its copy in bfloat16 or in C order, which is made once for all passes.
        """
        value, rounds = parameter.peek(), is_bfloat16(like)
        if not rounds and value.flags.c_contiguous:
            return value
        if parameter not in self._packed:
            self._packed[parameter] = parameter.operand(like) if rounds else contiguous(value)
        return self._packed[parameter]

    # ------------------------------------------------------------------------ a pass that is replayed
    #
    # is_recorded: whether the present pass is recorded, and nothing may be copied to the device.
    # limit: for how many columns of a text the tables suffice that it uses.

    @property
    def changes(self) -> int:
        """How often memory of this cache was taken or moved: a pass that was recorded can be
        replayed while this is the same.
        """
        return self._changes[0]

    def has_room(self, count: int) -> bool:
        """Whether `count` columns more fit into the memory of all layers as it is."""
        return all(columns.has_room(count) for columns in self._every())

    def note_replayed(self) -> None:
        """This pass was replayed: all layers have written its columns."""
        for columns in self._every():
            columns.stop += self.count

    def forget_pass(self) -> None:
        """This pass was not done after all: no layer has columns of it."""
        for columns in self._every():
            columns.stop = self.length

    # ------------------------------------------------------------------------------- between passes

    def truncate(self, count: int) -> None:
        """The last `count` columns count as never read.

        Where a window needs columns that are no longer kept, all columns are forgotten: `length` is
        0 then, and all tokens are to be read again. That happens only if `count` is above SPARE.
        """
        length = self.length - count
        every = self._every()
        if not all(columns.keeps(length) for columns in every):
            self.restart(self._host_padding)
            return
        self.length = length
        for columns in every:
            columns.stop = length

    def reorder(self, rows, start: int | None = None) -> None:
        """Keep these rows, in this order, possibly several times. rows: an integer array on the
        cache's device.

        start: where as many rows are kept as there are, the first column in which the new rows
        differ from the old ones. Beams of one prompt share most of their columns: only the others
        are copied.
        """
        self._B = len(rows)
        if self.padding is not None:
            self._set_padding(self._host_padding[to_host(rows)])
        for places in self._columns.values():
            for columns in places:
                columns.reorder(rows, start)

    # -------------------------------------------------------------------------------------- details

    def _set_padding(self, padding) -> None:
        """padding: in host memory, or None."""
        padding = None if padding is None else to_host(padding).astype(np.int64)
        self._host_padding, self._most_padding = padding, 0 if padding is None else int(padding.max())
        self.padding = None if padding is None else to_device(padding, device_of(self._like))
        self._changes[0] += 1

    def _every(self) -> list[_Columns]:
        return [columns for places in self._columns.values() for columns in places]

    def _new_places(self):
        """`_new_columns` from `place`."""
        if self.count == 1:
            return self.place
        return self.place + array_module(self._like).arange(self.count)

    def _new_columns(self):
        return array_module(self._like).arange(self.length, self.length + self.count)

    def _zero_where_hidden(self, x):
        """x (B, ..., t, D) with zeros in the columns of padding."""
        xp, shape = array_module(x), self._hidden.shape
        hidden = self._hidden.reshape(shape[0], *(1,) * (x.ndim - 3), shape[1], 1)
        return xp.where(hidden, x.dtype.type(0), x)


class _Columns:
    """Arrays (B, ..., T, D) of one layer that grow along T. Column i of the text is at i - first;
    the last is stop - 1.
    """

    def __init__(self, like, window: int | None, changes: list[int]):
        """changes: the one number is counted up whenever memory is taken or moved."""
        self.window, self.first, self.stop, self.capacity, self.changes = window, 0, 0, 0, changes
        self.arrays = [_empty(x, x.shape[0], 0) for x in like]

    def append(self, new):
        """Write the new columns behind the others; returns what they need: all columns, or those of
        their windows.
        """
        count = new[0].shape[-2]
        start = self.stop - self.first
        if start + count > self.capacity:
            if self.window is not None and start + count > self._limit():
                self._forget()
                start = self.stop - self.first
                if count > BLOCK:
                    return self._append_many(new, count)
            self._grow(start + count)
        stop = start + count
        lowest = 0 if self.window is None else max(0, start + 1 - self.window)
        seen = []
        for array, x in zip(self.arrays, new):
            array[..., start:stop, :] = x
            seen.append(array[..., lowest:stop, :])
        self.stop += count
        return seen

    def reserve(self, count: int):
        """As `append`, for new columns that are yet to be written: the whole arrays, and the column
        at their start. None where `append` would return them in memory of their own.
        """
        used = self.stop - self.first
        if used + count > self.capacity:
            if self.window is not None and used + count > self._limit():
                if count > BLOCK:
                    return None
                self._forget()
                used = self.stop - self.first
            self._grow(used + count)
        self.stop += count
        return *self.arrays, self.first

    def has_room(self, count: int) -> bool:
        """Whether `count` columns more fit in without any change of the memory."""
        return self.stop - self.first + count <= self.capacity

    def keeps(self, length: int) -> bool:
        """Whether the columns are here that a column at `length` needs."""
        return self.window is None or self.first <= max(0, length + 1 - self.window)

    def reorder(self, rows, start: int | None) -> None:
        used = self.stop - self.first
        self.changes[0] += start is None
        for index, old in enumerate(self.arrays):
            if start is None:
                self.arrays[index] = _empty(old, len(rows), old.shape[-2])
                self.arrays[index][..., :used, :] = old[..., :used, :][rows]
            else:
                changed = slice(max(0, start - self.first), used)
                old[..., changed, :] = old[..., changed, :][rows]

    def _limit(self) -> int:
        return self.window - 1 + SPARE + BLOCK

    def _grow(self, needed: int) -> None:
        """Make room for `needed` columns, and for more to come."""
        used = self.stop - self.first
        if needed > self.capacity:
            self.changes[0] += 1
            self.capacity = max(FIRST_CAPACITY, needed + needed // 2)
            if self.window is not None:
                self.capacity = min(self.capacity, self._limit())
            for index, old in enumerate(self.arrays):
                self.arrays[index] = _empty(old, old.shape[0], self.capacity)
                self.arrays[index][..., :used, :] = old[..., :used, :]

    def _forget(self) -> None:
        """Move the last columns, those of a window and SPARE more, to the front."""
        used = self.stop - self.first
        kept = min(used, self.window - 1 + SPARE)
        self.changes[0] += 1
        for array in self.arrays:
            array[..., :kept, :] = array[..., used - kept : used, :].copy()
        self.first = self.stop - kept

    def _append_many(self, new, count: int):
        """As `append` for more than BLOCK columns: all are returned, in memory of their own, and
        the last ones are kept.
        """
        used, lowest = self.stop - self.first, max(0, self.stop - self.first + 1 - self.window)
        joined = []
        kept = min(used + count, self.window - 1 + SPARE)
        self._grow(kept)
        for array, x in zip(self.arrays, new):
            joined.append(array_module(x).concatenate([array[..., :used, :], x], axis=-2))
            array[..., :kept, :] = joined[-1][..., used + count - kept :, :]
        self.stop += count
        self.first = self.stop - kept
        self.changes[0] += 1
        return [array[..., lowest:, :] for array in joined]


def _empty(like, B: int, capacity: int):
    shape = (B, *like.shape[1:-2], capacity, like.shape[-1])
    return array_module(like).empty_like(like, shape=shape, order="C")
