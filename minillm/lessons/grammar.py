"""A source of known entropy: a small grammar with random probabilities.

A rule replaces a symbol by one word and further symbols, `NOUN -> old NOUN`. No two rules of a
symbol begin with the same word (a simple grammar: Korenjak, Hopcroft, 1966). So the words so far
determine the symbols that are still to come, and the next word depends only on the first of these.
For a symbol A whose rules r have the probabilities p_r,

    h(A) = -sum_r p_r log p_r                         nats of the choice between its rules
    H(A) = h(A) + sum_r p_r sum_(B in r) H(B)         nats of the text that A becomes
    L(A) = 1    + sum_r p_r sum_(B in r) L(B)         words of the text that A becomes, on average

(Grenander, 1967; Soule, "Entropies of probabilistic grammars", 1974). With M_AB the mean number of
B in the rules of A, these are linear equations, H = (1 - M)^-1 h. A text of such sentences has
H(SENTENCE) / L(SENTENCE) nats a word. In the long run no model has a lower loss (Shannon, 1948).
"""

from __future__ import annotations

from bisect import bisect
from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream

SENTENCE = "SENTENCE"
RULES = {
    SENTENCE: "the NOUN VERB STOP | a NOUN VERB STOP | anna VERB STOP | everyone VERB STOP",
    "NOUN": "cat | dog | child | teacher | old NOUN | small NOUN | man WHO",
    "WHO": "who VERB",
    "VERB": "sleeps | sings | sees OBJECT | likes OBJECT | thinks THAT",
    "OBJECT": "the NOUN | a NOUN | anna | everyone",
    "THAT": "that CLAUSE",
    "CLAUSE": "the NOUN VERB | a NOUN VERB | anna VERB | everyone VERB",
    "STOP": ". | ! | because CLAUSE STOP | and CLAUSE STOP",
}


class Text(NamedTuple):
    """words (N,): ids of words. symbols (N,): the id of the symbol that each word begins."""

    words: np.ndarray
    symbols: np.ndarray


class Grammar:
    """The rules with probabilities drawn from `seed`.

    words, symbols: their names, by id. probabilities (S, V): of the next word, by the symbol that
    it begins. Raises ValueError if the mean length of a sentence would be infinite.
    """

    def __init__(self, seed: int, rules: dict[str, str] = RULES):
        self.symbols = list(rules)
        alternatives = [[rule.split() for rule in rules[symbol].split("|")] for symbol in self.symbols]
        self.words = sorted({rule[0] for rules_of_symbol in alternatives for rule in rules_of_symbol})
        self.probabilities = np.zeros((len(self.symbols), len(self.words)))
        self._rest = {}  # (symbol, word) -> the symbols that follow
        self._mean_symbols = np.zeros((len(self.symbols), len(self.symbols)))  # M
        for symbol, rules_of_symbol in enumerate(alternatives):
            # exponential numbers divided by their sum: uniform over all distributions
            weights = -np.log1p(-stream(seed, "grammar", self.symbols[symbol]).uniform(len(rules_of_symbol)))
            for (first, *rest), p in zip(rules_of_symbol, weights / weights.sum()):
                word = self.words.index(first)
                self.probabilities[symbol, word] = p
                self._rest[symbol, word] = [self.symbols.index(name) for name in rest]
                np.add.at(self._mean_symbols[symbol], self._rest[symbol, word], p)
        if np.abs(np.linalg.eigvals(self._mean_symbols)).max() >= 1:
            raise ValueError(f"with seed {seed} sentences of this grammar do not end: use another seed")

    def entropy_of_choices(self) -> np.ndarray:
        """h (S,): nats of the next word, by the symbol that it begins."""
        p = self.probabilities
        return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)

    def mean_length(self) -> float:
        """Words in a sentence, on average."""
        return float(self._whole(np.ones(len(self.symbols)))[self.symbols.index(SENTENCE)])

    def entropy_rate(self) -> float:
        """Nats a word, exactly."""
        entropy = self._whole(self.entropy_of_choices())[self.symbols.index(SENTENCE)]
        return float(entropy / self.mean_length())

    def write(self, count: int, seed: int) -> Text:
        """The first `count` words of an endless sequence of sentences."""
        uniform = stream(seed, "text").uniform(count).tolist()
        sentence = self.symbols.index(SENTENCE)
        choices = [np.flatnonzero(p).tolist() for p in self.probabilities]
        bounds = [(np.cumsum(p[p > 0])[:-1]).tolist() for p in self.probabilities]  # the last bound is 1
        words, symbols, to_come = [], [], []
        for number in uniform:
            symbol = to_come.pop() if to_come else sentence
            word = choices[symbol][bisect(bounds[symbol], number)]
            to_come.extend(reversed(self._rest[symbol, word]))
            words.append(word)
            symbols.append(symbol)
        return Text(np.array(words), np.array(symbols))

    def _whole(self, own: np.ndarray) -> np.ndarray:
        """Solve x = own + M x, (S,): totals over the text that a symbol becomes, from its own
        contribution.
        """
        return np.linalg.solve(np.eye(len(own)) - self._mean_symbols, own)
