"""The sampler's slow twin: every stage for one row, as a list of numbers, straight from its definition.

Logits are kept in float32, as the sampler does, by rounding after each operation; probabilities are in float64.
"""

from __future__ import annotations

import math
import struct

SLACK = 1e-7  # a sum or a quotient reaches a threshold if it misses it by no more than this share
OUT = -math.inf


def float32(x: float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def softmax(row):
    largest = max(row)
    weights = [math.exp(x - largest) for x in row]
    total = math.fsum(weights)
    return [w / total for w in weights]


def entropy(p):
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def keep(row, kept):
    return [x if i in kept else OUT for i, x in enumerate(row)]


def kept(row) -> set[int]:
    return {i for i, x in enumerate(row) if x > OUT}


# ---------------------------------------------------------------------------------------------------------------- cuts


def top_k(row, k, ties="lowest"):
    if not k or k >= len(row):
        return row
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    least = row[order[k - 1]]
    return keep(row, {i for i in order if row[i] >= least} if ties == "all" else set(order[:k]))


def up_to(p, order, mass):
    chosen, total = [], 0.0
    for i in order:
        chosen.append(i)
        total += p[i]
        if total >= mass:
            break
    return chosen


def top_p(row, mass):
    p = softmax(row)
    return keep(row, set(up_to(p, sorted(range(len(p)), key=lambda i: (-row[i], i)), mass * (1 - SLACK))))


def min_p(row, share):
    p = softmax(row)
    least = share * max(p) * (1 - SLACK)
    return keep(row, {i for i, x in enumerate(p) if x >= least})


def typical(row, mass, ties="lowest", more=False):
    p = softmax(row)
    h = entropy(p)
    distance = [abs(-math.log(x) - h) if x > 0 else math.inf for x in p]
    order = sorted(range(len(p)), key=lambda i: (distance[i], i))
    chosen = up_to(p, order, mass + SLACK if more else mass * (1 - SLACK))
    furthest = distance[chosen[-1]]
    return keep(row, {i for i in order if distance[i] <= furthest} if ties == "all" else set(chosen))


def epsilon(row, least, ties="lowest"):
    p = softmax(row)
    chosen = {i for i, x in enumerate(p) if x >= least * (1 - SLACK)}
    largest = max(row)
    return keep(
        row, chosen or ({i for i, x in enumerate(row) if x == largest} if ties == "all" else {row.index(largest)})
    )


def eta(row, e, ties="lowest"):
    return epsilon(row, min(e, math.sqrt(e) * math.exp(-entropy(softmax(row)))), ties)


def top_n_sigma(row, n):
    finite = [x for x in row if x > OUT]
    mean = math.fsum(finite) / len(finite)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in finite) / len(finite))
    least = max(row) - n * deviation
    return keep(row, {i for i, x in enumerate(row) if x >= least})


def xtc(row, threshold, excluding=True):
    """All that reach the threshold go, except the least likely of them (of several the last)."""
    p = softmax(row)
    top = sorted((i for i in kept(row) if p[i] >= threshold * (1 - SLACK)), key=lambda i: (-row[i], i))
    return keep(row, set(range(len(row))) - set(top[:-1])) if excluding else row


def mirostat(row, mu):
    chosen = {i for i, x in enumerate(softmax(row)) if x > 0 and -math.log2(x) <= mu + 1e-7}
    return keep(row, chosen or {row.index(max(row))})


# ----------------------------------------------------------------------------------------------------------- penalties


def repetition_penalty(row, seen, penalty):
    changed = list(row)
    for i in set(seen):
        changed[i] = float32(row[i] / penalty if row[i] > 0 else row[i] * penalty)
    return changed


def presence_penalty(row, seen, penalty):
    seen = set(seen)
    return [float32(x - float32(penalty)) if i in seen else x for i, x in enumerate(row)]


def frequency_penalty(row, seen, penalty):
    counts = {i: list(seen).count(i) for i in set(seen)}
    return [float32(x - float32(penalty * counts[i])) if i in counts else x for i, x in enumerate(row)]


def no_repeat_ngram(row, seen, size):
    seen = tuple(seen)
    ngrams = {seen[i : i + size] for i in range(len(seen) - size + 1)}
    last = seen[max(len(seen) - size + 1, 0) :]
    banned = {i for i in range(len(row)) if (*last, i) in ngrams}
    cut = [OUT if i in banned else x for i, x in enumerate(row)]
    return cut if max(cut) > OUT else row


def dry_penalty(row, seen, multiplier, base=1.75, allowed=2, breakers=()):
    """For every token, every length and every place: would the last tokens and this one repeat what is there?"""
    seen = list(seen)
    changed = list(row)
    for token in set(seen) - set(breakers):
        longest = 0
        for length in range(1, len(seen)):
            ending = seen[-length:]
            if not set(ending) & set(breakers):
                places = range(len(seen) - length)
                if any(seen[at : at + length] == ending and seen[at + length] == token for at in places):
                    longest = length
        if longest >= allowed:
            changed[token] = float32(row[token] - float32(min(multiplier * base ** (longest - allowed), 1e30)))
    return changed


# ---------------------------------------------------------------------------------------------------------- and others


def logit_bias(row, bias):
    return [float32(x + float32(bias[i])) if i in bias else x for i, x in enumerate(row)]


def ban(row, tokens):
    return [OUT if i in tokens else x for i, x in enumerate(row)]


def force(row, token):
    return row if token is None else [0.0 if i == token else OUT for i in range(len(row))]


def temperature(row, t):
    largest, t = max(row), float32(min(max(t, 2.0**-126), 3.4028234663852886e38))
    return [float32(float32(x - largest) / t) for x in row]
