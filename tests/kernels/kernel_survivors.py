"""Mutants of the kernels that no check notices, and why: they are the same function, or only slower.

REASONS: reason -> where it holds: kernels, function, text of the line, what is changed and to what. "..." is any text.
"""

import re
from functools import cache
from typing import NamedTuple


class Survivor(NamedTuple):
    """kernels, function, source: of the mutants. change: "before -> after"."""

    kernels: str
    function: str
    source: str
    change: str

    def fits(self, kernel, mutant) -> bool:
        """Whether a mutant of a kernel is meant."""
        found = (kernel, mutant.function, mutant.source, f"{mutant.before} -> {mutant.after or 'nothing'}")
        return all(pattern(each).fullmatch(text) for text, each in zip(found, self))


@cache
def pattern(text):
    """A regular expression for a text in which "..." is anything."""
    return re.compile(".*".join(map(re.escape, text.split("..."))))


REASONS = {
    "all threads that are asked have the same number, so it does not matter which of them writes it": [
        Survivor("...", "block_sum", "if (threadIdx.x % 32 == 0)...", "0 -> 1"),
        Survivor("cross_entropy", "block_merge", "if (threadIdx.x % 32 == 0)...", "0 -> 1"),
        Survivor("cross_entropy", "...", "if (threadIdx.x == 0)...", "0 -> 1"),
        Survivor("cross_entropy", "...", "if (threadIdx.x == 0 && known) {", "0 -> 1"),
        Survivor("decode", "block_max", "if (threadIdx.x % 32 == 0)...", "0 -> 1"),
        Survivor("decode", "attend", "if (gridDim.y > 1 && threadIdx.x == 0) {", "0 -> 1"),
        Survivor("...", "row_delta", "if (threadIdx.x % 32 == 0)...", "0 -> 1"),
        Survivor("global_norm", "...", "if (threadIdx.x == 0)...", "0 -> 1"),
        Survivor("layer_norm", "layer_norm_forward", "if (threadIdx.x == 0) {", "0 -> 1"),
        Survivor("residual_layer_norm", "residual_layer_norm_forward", "if (threadIdx.x == 0) {", "0 -> 1"),
        Survivor("...rms_norm", "...rms_norm_forward", "if (threadIdx.x == 0) rstd[row] = ...;", "0 -> 1"),
        Survivor("global_norm", "...", "if (threadIdx.x != 0) return;", "0 -> 1"),
    ],
    "thread 33 w is the only one of its kind in warp w, for all 32 warps": [
        Survivor("...", "block_sum", "if (threadIdx.x % 32 == 0)...", "32 -> 33"),
        Survivor("cross_entropy", "block_merge", "if (threadIdx.x % 32 == 0)...", "32 -> 33"),
    ],
    "distances of 17, 8, 4, 2 and 1 reach all lanes, too: the sum has another order": [
        Survivor("decode", "block_max", "for (int distance = 16; ...", "16 -> 17"),
        Survivor("...", "warp_sum", "...", "16 -> 17"),
        Survivor("cross_entropy", "warp_merge", "...", "16 -> 17"),
    ],
    "a block has at most 16 warps": [
        Survivor("...", "block_sum", "value = warp_sum(threadIdx.x % 32 < ...", "32 -> 16"),
        Survivor("cross_entropy", "block_merge", "value = warp_merge(threadIdx.x % 32 < ...", "32 -> 16"),
    ],
    "both sides of the comparison give the same at the border": [
        Survivor("...", "piece_of_block", "...", "start + PIECE < size -> start + PIECE <= size"),
        Survivor("global_norm", "...", "...", "length > max_norm -> length >= max_norm"),
        Survivor("embedding", "...", "...", "start + WINDOW < count -> start + WINDOW <= count"),
        Survivor("largest", "larger", "...", "a.id < b.id -> a.id <= b.id"),
        Survivor("largest", "larger", "...", "a.value > b.value -> a.value >= b.value"),
        Survivor(
            "cross_entropy", "...", "before = before < vocabulary ? ...", "before < vocabulary -> before <= vocabulary"
        ),
    ],
    "ids are sorted: one that equals the id of another place is that of all between them": [
        Survivor("embedding", "...", "bool began_before = ...", "run_start == start && start > 0 -> bool(start > 0)"),
        Survivor("embedding", "...", "bool goes_on = ...", "p + 1 == end && end < count -> bool(end < count)"),
        Survivor(
            "embedding", "...", "if (run_start == start && ...", "run_start == start && start > 0 -> bool(start > 0)"
        ),
    ],
    "windows start at multiples of 32": [
        Survivor("embedding", "...", "bool began_before = ...", "0 -> 1"),
        Survivor("embedding", "...", "if (run_start == start && start > 0 ...", "0 -> 1"),
    ],
    "the number is only compared with the start of the window, and is beyond it or before it in either way": [
        Survivor("embedding", "...", "run_start = p + 1;", "p + 1 -> 1"),
        Survivor("embedding", "...", "run_start = p + 1;", "1 -> 2"),
    ],
    "the bisection cuts at another place": [
        Survivor("...", "piece_of_block", "int middle = (low + high + 1) / 2;", "1 -> 2"),
    ],
    "the differences from the mean have the sum 0, so any multiple of it may be added": [
        Survivor("...", "row_statistics", "...squares += (x[i] - mean) * (x[i] - mean);", "x[i] - mean -> x[i]..."),
    ],
    "rows are whole vectors: a vector lies inside of a row or beyond it": [
        Survivor("...", "column_of", "...", "(i / N * blockDim.x + threadIdx.x) * N + i % N -> ...* N"),
    ],
    "the column of a number HELD, which no thread has, lies beyond every row": [
        Survivor("...", "row_statistics", "for (int i = 0; i < HELD; ++i) {", "i < HELD -> i <= HELD"),
        Survivor("...", "store_row", "for (int i = 0; i < HELD; i += N) {", "i < HELD -> i <= HELD"),
    ],
    "vectors are launched only where the array begins at eight numbers of Philox: start is never negative": [
        Survivor("dropout", "dropout", "if (N > 1 && ...", "N > 1 && start >= 0 -> bool(N > 1)"),
    ],
    "N is 1 or 8": [Survivor("dropout", "dropout", "if (N > 1 && start >= 0 && start + 8 <= count) {", "1 -> 2")],
    "no number that is drawn lies on the border: one of 65,536 would": [
        Survivor(
            "dropout", "dropout", "...", "philox_half(words, i) >= threshold -> philox_half(words, i) > threshold"
        ),
    ],
    "no number that is drawn lies on the border: one of 4,294,967,296 would": [
        Survivor("...", "kept_bits", "bits |= ...", "number >= drop.threshold -> number > drop.threshold"),
    ],
    "without dropout every number is kept, with the factor 1, and the two arrays are one": [
        Survivor("...", "softmax_forward", "if (drop.threshold) ...", "drop.threshold -> true"),
    ],
    "only slower: without dropout the bits are not used": [
        Survivor("flash...", "Kept...Tile", "if (!drop.threshold) return;", "!drop.threshold -> false"),
    ],
    "the remainder is taken in the loop": [
        Survivor("...", "kept_bits", "int half = (drop.first + n) % 8;", "(drop.first + n) % 8 -> (drop.first + n)"),
    ],
    "these kernels draw one number at a time: c is 0, and half is below 8": [
        Survivor(kernel, "kept_bits", *line)
        for kernel in ("naive", "tiled")
        for line in (
            ("if (c == 0 || half == 8) ...", "..."),
            ("half %= 8;", "half %= 8; -> nothing"),
            ("bits |= ...", "bits |= ... -> bits = ..."),
            ("bits |= ...", "... << c -> ... >> c"),
        )
    ]
    + [Survivor("online", "kept_bits", "if (c == 0 || half == 8) ...", "...")],
    "only slower: the scores of a tile that is hidden are computed, and masked one by one": [
        Survivor("flash_tensor_cores", "flash_backward_keys", "int start = causal ? ...", "starts -> false"),
        Survivor("flash...", "flash_backward_keys", "if (!mask.hides_all(...", "16 -> 17"),
        Survivor("...", "hides_none", "return last < time ...", "j + keys - 1 <= i -> j + keys - 1 < i"),
        Survivor("flash...", "flash_backward_queries", "int begin = ...", "min(first_query + OWNED, time) -> time"),
        Survivor("tiled", "matmul_abt", "bool hidden = ...", "(causal && ...-> bool(column + TILE - 1 < ..."),
        Survivor("tiled", "matmul_abt", "bool hidden = ...", "(causal && ...-> bool((causal && ...&& ..."),
        Survivor("tiled", "matmul_abt", "bool hidden = ...", "row + TILE - 1 -> row + TILE"),
    ],
    "only slower: there are more tiles, or others, in which a thread goes over the keys and queries that it sees": [
        Survivor("online", "...", "int begin = first_key_of(...", ".../ TILE * TILE -> .../ TILE"),
        Survivor(
            "online", "...", "...end = causal ? min(first + ROWS, time) : time;", "min(first + ROWS, time) -> ..."
        ),
        Survivor("online", "online_backward_keys", "for (int start = ...", "start < time -> start <= time"),
    ],
    "a product has more tiles, in which the weights or the numbers beyond the end are 0": [
        Survivor("tiled", "matmul_ab", "int begin = ...", ".../ TILE * TILE -> .../ TILE"),
        Survivor("tiled", "matmul_ab", "int end = causal ? ...", "..."),
        Survivor("tiled", "matmul_ab", "for (int j = begin; ...", "j < end -> j <= end"),
        Survivor("tiled", "matmul_atb", "for (int i = causal ? row : 0; ...", "i < time && ... -> bool(i < time)"),
        Survivor("tiled", "matmul_atb", "for (int i = causal ? row : 0; ...", "i < time -> i <= time"),
    ],
    "only slower: the numbers are written one by one": [
        Survivor("dropout", "dropout", "if (N > 1 && start >= 0 && start + 8 <= count) {", "N > 1...count -> false"),
        Survivor("dropout", "dropout", "if (N > 1 && start >= 0 && start + 8 <= count) {", "start >= 0 -> start > 0"),
        Survivor(
            "dropout", "dropout", "if (N > 1 && start >= 0 && start + 8 <= count) {", "start + 8...-> start + 8 < count"
        ),
        Survivor("dropout", "dropout", "if (N > 1 && start >= 0 && start + 8 <= count) {", "8 -> 9"),
        Survivor("dropout", "dropout", "if (N > 1 && start >= 0 && start + 8 <= count) {", "0 -> 1"),
    ],
    "only slower: the numbers are read one by one": [
        Survivor("skinny_matmul", "skinny_rows", "if (wide) {", "wide -> false"),
    ],
    "only slower: the loop behind it finds nothing to do": [
        Survivor("dropout", "dropout", "if (start >= count) return;", "..."),
    ],
    "the same numbers are written a second time": [
        Survivor("dropout", "dropout", "return;", "return; -> nothing"),
    ],
    "a softmax does not change when a number is added to all scores": [
        Survivor("decode", "score", "float s = 0;", "0 -> 1"),
    ],
    "the weights of keys that are not seen are 0": [
        Survivor("naive", "matmul_atb", "for (long long i = causal ? j : 0; ...", "i < time && ... -> bool(i < time)"),
        Survivor("decode", "attend", "int n = threadIdx.x + own * KEYS, from = ...", "max(start, begin) -> start"),
    ],
    "the number OWN of a thread, which it does not have, belongs to no column": [
        Survivor("decode", "attend", "for (int own = 0; own < OWN; ++own)", "own < OWN -> own <= OWN"),
    ],
    "one more number is written, which is not read": [
        Survivor("decode", "attend", "if (threadIdx.x + own * KEYS < ...", "... < ... -> ... <= ..."),
    ],
    "a thread takes no second turn: a block has as many threads as a head has columns": [
        Survivor("decode", "merge", "for (int d = threadIdx.x; ...", "d += blockDim.x -> d = blockDim.x"),
    ],
    "a thread takes no second turn: the grid has a block for all rows, up to the limit of blocks, 65,535 heads": [
        Survivor("rotary", "...", "for (long long head = blockIdx.y; ...", "head += gridDim.y -> ..."),
    ],
    "the number is written over before it is read": [
        Survivor("skinny_matmul", "skinny_rows", "float mine = 0;", "0 -> 1"),
        Survivor("cross_entropy", "...", "OnlineSum alone = {fmaxf((float)z[single], LOWEST), 1};", "1 -> ..."),
    ],
    "the loss of an unknown target is NaN whatever its logit is": [
        Survivor("cross_entropy", "cross_entropy", "float at_target = known ? (float)z[target] : 0;", "0 -> 1"),
    ],
    "a logit of -inf has the weight exp(LOWEST - max), which is 0; another one is its own maximum, with the sum 1": [
        Survivor("cross_entropy", "cross_entropy", "alone.sum = expf((float)z[single] - alone.max);", "...nothing"),
    ],
    "packs begin at a multiple of 16 bytes, too, behind 16 more": [
        Survivor(
            "cross_entropy", "...", "int before = (int)((16 - ...", "(16 - (unsigned long long)z % 16) % 16 -> ..."
        ),
        Survivor("cross_entropy", "...", "int before = (int)((16 - ...", "16 -> 17"),
        Survivor(
            "cross_entropy",
            "...",
            "int before = (int)((16 - ...",
            "(unsigned long long)z % 16 -> (unsigned long long)z",
        ),
    ],
    "a sum of exponentials to LOWEST, which is 0 in the merged one": [
        Survivor("cross_entropy", "block_merge", "const OnlineSum nothing = {LOWEST, 0};", "0 -> 1"),
        Survivor("cross_entropy", "cross_entropy", "OnlineSum online = {LOWEST, 0};", "0 -> 1"),
    ],
    "the scratch memory is not used again": [
        Survivor("cross_entropy", "block_merge", "__syncthreads();", "__syncthreads(); -> nothing"),
    ],
    "before a row of fewer numbers than a pack no pack is left in either way": [
        Survivor("cross_entropy", "cross_entropy", "before = before < vocabulary ? before : vocabulary;", "..."),
    ],
}
SURVIVORS = [each for survivors in REASONS.values() for each in survivors]


def reason(kernel, mutant):
    """Why a mutant survives; None for one that is not in the list."""
    return next((why for why, survivors in REASONS.items() if any(s.fits(kernel, mutant) for s in survivors)), None)
