"""Learning a byte-pair vocabulary: again and again, the pair of neighbours that is most frequent
becomes a token.

Source: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units" (ACL
2016), algorithm 1, on bytes as in GPT-2. Of equally frequent pairs the smallest pair of byte
strings is taken, so that the result depends on what the text contains and not on its order.

    "aaab aaab", pieces aaab and _aaab:   a a a b,  _ a a a b     aa 2+2, ab 1+1, _a 1
    aa -> X:                              X a b,    _ X a b       Xa 2, ab 2, _X 1     of the two, "a","b" is smaller
    ab -> Y:                              X Y,      _ X Y         XY 2, _X 1

Pieces are counted, and each distinct piece is merged once for all its occurrences. Counts of pairs
are kept and changed where a merge changes them; the most frequent pair comes from a heap whose
entries may be out of date, and are then put back with the count of now (a pair's count only falls
once it has been counted in full).
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from minillm.errors import UserError
from minillm.tokenizers.patterns import compile_pattern, pieces

BYTES = 256


def count_pieces(texts: Iterable[str], pattern: str) -> Counter[bytes]:
    """How often each distinct piece occurs.

    Each text is taken by itself: no piece crosses from one to the next.
    """
    compiled, counts = compile_pattern(pattern), Counter()
    for text in texts:
        counts.update(pieces(compiled, text))
    try:
        return Counter({piece.encode("utf-8"): count for piece, count in counts.items()})
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise UserError(f"the text has a lone surrogate, U+{code:04X}: it cannot be written as UTF-8") from None


def learn_merges(
    counts: Mapping[bytes, int], merges: int, progress: Callable[[int], None] | None = None
) -> list[tuple[int, int]]:
    """The pairs of token ids that are merged, in order; merge i makes token 256 + i. Fewer if there
    is nothing left to merge.

    progress: called with the number of merges done, now and then.

    >>> learn_merges(Counter({b"aaab": 1, b" aaab": 1}), 3)
    [(97, 97), (97, 98), (256, 257)]
    """
    words = [list(piece) for piece in counts]
    occurrences = list(counts.values())
    tokens = [bytes([value]) for value in range(BYTES)]
    known = set(tokens)
    pair_counts: dict[tuple[int, int], int] = defaultdict(int)
    where: dict[tuple[int, int], set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += occurrences[index]
            where[pair].add(index)
    heap = [(-count, tokens[a], tokens[b], (a, b)) for (a, b), count in pair_counts.items()]
    heapq.heapify(heap)
    learned: list[tuple[int, int]] = []
    while heap and len(learned) < merges:
        negative, first, second, pair = heapq.heappop(heap)
        count = pair_counts.get(pair, 0)
        if count != -negative:
            heapq.heappush(heap, (-count, first, second, pair))
            continue
        if not count:
            continue
        if first + second in known:  # it would be a second token of the same bytes
            continue
        token = len(tokens)
        tokens.append(first + second)
        known.add(first + second)
        learned.append(pair)
        changed = _merge_everywhere(pair, token, words, occurrences, where, pair_counts)
        for new in changed:
            heapq.heappush(heap, (-pair_counts[new], tokens[new[0]], tokens[new[1]], new))
        if progress and not len(learned) % 64:
            progress(len(learned))
    if progress:
        progress(len(learned))
    return learned


def _merge_everywhere(pair, token, words, occurrences, where, pair_counts) -> set[tuple[int, int]]:
    """Replace the pair by the token in every word that has it; returns the pairs that are new."""
    a, b = pair
    changed = set()
    for index in where.pop(pair):
        word, count = words[index], occurrences[index]
        position = -1
        try:
            while True:
                position = word.index(a, position + 1)
                if word[position + 1] != b:
                    continue
                word[position : position + 2] = [token]
                if position:
                    left = word[position - 1]
                    pair_counts[left, a] -= count
                    new = (left, token)
                    pair_counts[new] += count
                    where[new].add(index)
                    changed.add(new)
                if position + 1 < len(word):
                    right = word[position + 1]
                    pair_counts[b, right] -= count
                    new = (token, right)
                    pair_counts[new] += count
                    where[new].add(index)
                    changed.add(new)
        except (ValueError, IndexError):  # no further `a`, or it is the last of the word
            pass
    del pair_counts[pair]
    return changed
