"""Values for the arguments of a function: arrays of known shapes, settings by their names."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from minillm.checks.own_code.names import (
    ACTIVATION,
    BIASES,
    LABELS,
    LISTS,
    PROBABILITIES,
    SETTINGS,
    SIZES,
    SLOPE,
    TOKENS,
)
from minillm.checks.own_code.shapes import Sizes, Told, is_one_hot, says_integers, told
from minillm.checks.own_code.source import REQUIRED, Argument, Code, code_of
from minillm.errors import UserError

MOST = 400  # combinations of shapes that are tried
HELP = "--input {0}=3,5 (a shape), --input {0}=int:10:4 (integers below 10), or in the file  # {0}: (N, D)"


class BadInput(UserError):
    """An --input or a comment "# gradcheck: ..." that cannot be used."""


class Ask(UserError):
    """Something that only the user can say: what, and how to say it."""


@dataclass
class Choice:
    """Values for all arguments. guessed: the arguments whose shapes nothing tells. index: which of
    the choices this is.
    """

    values: dict[str, object]
    guessed: tuple[str, ...] = ()
    index: int = 0


@dataclass
class Maker:
    """Makes values. given: argument -> text of --input, "function.argument" for one function alone.
    of_output: names of functions -> whether they give a slope in terms of y, as it was found.
    """

    module: ModuleType
    sizes: Sizes = field(default_factory=Sizes)
    given: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    of_output: dict[str, bool] = field(default_factory=dict)
    widths: tuple[int, ...] = ()  # lengths of a last axis that an object was made for

    def choices(
        self,
        owner: str,
        codes: list[Code],
        header: str = "",
        only: set[str] | None = None,
        differentiated: set[str] = frozenset(),
    ) -> Iterator[Choice]:
        """Values for the arguments of the first of `codes`, the likeliest first.

        header: further text that may tell shapes. only: the arguments wanted, all by default.
        differentiated: those that have a gradient, and so are no labels.
        """
        arguments = [a for a in codes[0].arguments if only is None or a.name in only]
        self.sizes.read_products("\n".join((*(code.docstring for code in codes), header)))
        shapes = told(codes, [a.name for a in arguments], header)
        fixed, open_ = {}, []
        for argument in arguments:
            found = self._known(owner, codes, argument, shapes, differentiated)
            if found is not _LEAVE and found is not _OPEN:
                fixed[argument.name] = found
            elif found is _OPEN:
                open_.append(argument.name)
        for values in itertools.islice(self._completed(codes, fixed, open_, differentiated), MOST):
            yield Choice({a.name: values[a.name] for a in arguments if a.name in values}, tuple(open_))

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal numbers that depend on the name."""
        numbers = np.random.default_rng([self.seed, *name.encode()])
        return numbers.normal(size=shape)

    def integers(self, name: str, below: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng([self.seed, *name.encode()]).integers(0, max(1, below), shape)

    def given_for(self, owner: str, codes: list[Code], name: str):
        """The value that --input or a comment "# gradcheck: x = ..." gives; _OPEN if none does."""
        text = self.given.get(f"{owner}.{name}", self.given.get(name))
        if text is not None:
            return self._from_option(name, text)
        for code in codes:
            for comment in (*code.comments.values(), *code.comments_above):
                if match := re.match(rf"gradcheck:\s*{re.escape(name)}\s*=\s*(.+)$", comment):
                    return self.evaluated(f"# gradcheck: {name} = ", match.group(1))
        return _OPEN

    def evaluated(self, where: str, text: str):
        """An expression in the names of the module, NumPy's np and a random generator rng."""
        names = {"np": np, "rng": np.random.default_rng(self.seed), **vars(self.module)}
        try:
            return eval(text, names)
        except Exception as error:  # whatever the user wrote
            raise BadInput(f"{where}{text}: {type(error).__name__}: {error}") from None

    def _from_option(self, name: str, text: str):
        if text.startswith("="):
            return self.evaluated(f"--input {name}==", text[1:])
        if match := re.fullmatch(r"int:(\d+)(?::(\d+(?:,\d+)*),?)?", text):
            shape = tuple(map(int, match.group(2).split(","))) if match.group(2) else ()
            return self.integers(name, int(match.group(1)), shape)
        if re.fullmatch(r"\d+(,\d+)*,?", text):
            return self.array(name, tuple(int(n) for n in text.split(",") if n))
        raise BadInput(f"--input {name}={text}: write {HELP.format(name)}, or {name}==EXPRESSION")

    def _known(self, owner: str, codes: list[Code], argument: Argument, shapes: dict[str, Told], differentiated):
        name, note = argument.name, argument.note
        if (given := self.given_for(owner, codes, name)) is not _OPEN:
            return given
        init = codes[0].name == "__init__"
        if (
            init
            and LISTS.search(name)
            and (argument.default is REQUIRED or isinstance(argument.default, (list, tuple)))
        ):
            return [self.sizes.of(name), self.sizes.of(f"{name}_")]
        if init and SIZES.search(name) and argument.default is REQUIRED and (name not in SETTINGS or name == "dim"):
            return self.sizes.of(name)
        if name in SETTINGS and isinstance(SETTINGS[name], (bool, str)) and name not in ("verbose", "debug", "name"):
            return SETTINGS[name]  # trained, whatever the default is
        keys = self._keys(codes, name)
        if name in shapes and name not in SETTINGS and not keys:
            shape = self.sizes.shape(shapes[name].shape)
            if name not in differentiated and (
                shapes[name].is_integer or codes[0].indexes(name) or says_integers(codes, name)
            ):
                return self.integers(name, self._bound(codes[0], name, shapes), shape)
            if is_one_hot(codes, name) and name not in differentiated and len(shape) > 1:
                return np.eye(shape[-1])[self.integers(name, shape[-1], shape[:-1])]
            return self.array(name, shape)
        if argument.default is not REQUIRED:
            return _OPEN if argument.default is None and name in LABELS else self._by_default(name, argument.default)
        if keys:
            return self._dictionary(codes, name, keys)
        settings = vars(self.module).get(note.strip("'\"<>").split(".")[-1])
        if inspect.isclass(settings) and not any(p.default is REQUIRED for p in code_of(settings.__init__).arguments):
            return settings()
        if words := codes[0].compared_with(name):
            return words[0]
        if name in ("rng", "generator", "random_generator"):
            return np.random.default_rng(self.seed)
        if name in SETTINGS:
            return SETTINGS[name]
        if init and ACTIVATION.search(name):
            return _tanh_slope if SLOPE.search(name) else np.tanh
        is_a_letter = any(name in each.shape for each in shapes.values()) and len(codes[0].names) > 3
        if note in ("int", "<class 'int'>") or (
            len(name) == 1 and name.isupper() and (is_a_letter or self._is_a_size(codes, name))
        ):
            return self.sizes.of(name)
        if note in ("float", "<class 'float'>"):
            return 0.5
        return _OPEN

    def _keys(self, codes: list[Code], name: str) -> dict[str, object]:
        """The keys with which a dict is read, as those of parameters["W1"]; see Code.keys_of."""
        keys: dict[str, object] = {}
        for code in codes:
            keys |= {key: value for key, value in code.keys_of(name).items() if isinstance(key, str)}
        if not keys and re.search(r"(param|params|config|cfg)$", name):  # handed on: what others read of it
            for code in map(code_of, filter(inspect.isfunction, vars(self.module).values())):
                if name in code.names:
                    keys |= {key: value for key, value in code.keys_of(name).items() if isinstance(key, str)}
        return keys

    def _by_default(self, name: str, default):
        """A large number of features becomes a small one; other defaults are kept."""
        return self.sizes.of(name) if type(default) is int and default > 8 and SIZES.search(name) else _LEAVE

    def _is_a_size(self, codes: list[Code], name: str) -> bool:
        """Whether an argument such as B, T or C is a number: range(B), reshape(B, T)."""
        text = "\n".join(code.text for code in codes)
        return bool(
            re.search(rf"range\(\s*{name}\b|reshape\([^)]*\b{name}\b|zeros\(\(?[^)]*\b{name}\b|/\s*{name}\b", text)
        ) and not re.search(rf"\b{name}\s*(\.|\[|@)|@\s*{name}\b|dot\([^)]*\b{name}\b", text)

    def _dictionary(self, codes: list[Code], name: str, keys: dict[str, object]) -> dict:
        """A dict of settings, such as bn_param of {"mode": "train", "eps": 1e-5}, and of arrays."""
        found, shapes = {}, told(codes, list(keys))
        for key, default in keys.items():
            if key in shapes and key not in SETTINGS:
                if default is REQUIRED:
                    found[key] = self.array(key, self.sizes.shape(shapes[key].shape))
            elif key in SETTINGS and (default is REQUIRED or key == "mode"):
                found[key] = SETTINGS[key]
            elif default is REQUIRED:
                raise Ask(
                    f'{codes[0].name}: {name}["{key}"] is not known: write  # gradcheck: {name} = {{"{key}": ...}}'
                )
        return found

    def _bound(self, code: Code, name: str, shapes: dict[str, Told]) -> int:
        """Below what integers are that are used as an index: the length of the axis they index."""
        for container, axis in code.indexes(name):
            for each in ast.walk(container):
                held = each.id if isinstance(each, ast.Name) else each.attr if isinstance(each, ast.Attribute) else ""
                if held in shapes and axis < len(shapes[held].shape):
                    return self.sizes.number(shapes[held].shape[axis])
        others = [told.shape[-1] for key, told in shapes.items() if key != name and len(told.shape) > 1]
        return min((self.sizes.number(dim) for dim in others), default=3)

    def _completed(self, codes: list[Code], fixed: dict, open_: list[str], differentiated) -> Iterator[dict]:
        known = [x.shape for x in fixed.values() if isinstance(x, np.ndarray)]
        base = known[0] if known and len(known[0]) > 1 else (3, 4)
        if self.widths and not (known and len(known[0]) > 1):
            base = (next(n for n in (3, 5, 2, 7) if n not in self.widths), self.widths[0])
        lists = [self._candidates(codes, name, base, is_first=not known and i == 0, differentiated=differentiated)
                 for i, name in enumerate(open_)]  # fmt: skip
        text = "\n".join(code.text for code in codes)
        if "log(" in text and "exp(" not in text and any(PROBABILITIES.search(name) for name in (*fixed, *open_)):
            orders = (True, False)  # the logarithm of a probability
        else:
            orders = (False, True)
        for positive in orders:
            for combination in itertools.product(*lists):
                values = dict(fixed) | {name: make() for name, make in zip(open_, combination)}
                yield {name: _positive(value) if positive else value for name, value in values.items()}

    def _candidates(self, codes: list[Code], name: str, base: tuple[int, ...], is_first: bool, differentiated) -> list:
        """Functions that make an array for an argument of which nothing is known."""
        width = base[-1]

        def shaped(*shapes):
            return [lambda shape=shape: self.array(name, shape) for shape in shapes]

        def labels():
            one_hot = np.eye(width)[self.integers(name, width, base[:-1])]
            below = (width, 2)
            whole = [lambda n=n: self.integers(name, n, base[:-1]) for n in below]
            return [whole[0], lambda: one_hot.copy(), whole[1]]

        if name in TOKENS:
            return [lambda: self.integers(name, 3, base)]
        indexed = any(code.indexes(name) for code in codes)
        if indexed and name not in differentiated:
            return [*labels(), lambda: self.integers(name, 2, base)]
        others = [
            other for other in codes[0].names if codes[0].arguments[codes[0].names.index(other)].default is REQUIRED
        ]
        is_label = name.lower() in LABELS and name not in differentiated
        if is_label and not (is_first and all(other.lower() in LABELS for other in others)):  # of mse(y, t), t
            numbers, one_hot, bits = labels()
            return [one_hot, *shaped(base), numbers, bits]
        if BIASES.match(name) and not is_first:
            new = [n for n in (5, *base) if n]
            return shaped(*((n,) for n in new), *((1, n) for n in new), *((n, 1) for n in new))
        if is_first and self.widths:
            rows = next(n for n in (3, 5, 2, 7) if n not in self.widths)
            wide = [(rows, n) for n in self.widths] + [(n,) for n in self.widths] + [(2, rows, n) for n in self.widths]
            wide += [shape for n in self.widths for shape in ((1, n), (n, rows), (n, 1))]
            return shaped(*wide, *((2, n, 4, 6) for n in self.widths), (4, 6))
        if is_first or any(other.lower() in LABELS for other in codes[0].names):
            return shaped(base, base[:1], (2, 3, 4, 6), (2, 3, 4))
        return shaped(
            (width, 5), (5, base[0]), (5, width), base, (width,), base[:1], (5,), (5, 6), (6, 5), (), (2, 3, 4)
        )


class _Mark:
    pass


_LEAVE, _OPEN = _Mark(), _Mark()  # its default is used; nothing tells it
NOT_GIVEN = _OPEN


def is_float(value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _positive(value):
    """Numbers in (0, 1) in the place of normal ones, for logarithms; rows that add up to 1."""
    if not is_float(value) or not value.ndim or set(np.unique(value)) <= {0.0, 1.0}:
        return value
    positive = 0.1 + 0.8 / (1 + np.exp(-value))
    return positive


def _tanh_slope(x):
    return 1 - np.tanh(x) ** 2
