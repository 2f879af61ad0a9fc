"""What Read has a page for: an operation, and its places in the sources."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Pair:
    """A forward function and its backward, by their names in the module: "attend", "Linear.forward"."""

    forward: str
    backward: str | None = None


@dataclass(frozen=True)
class Operation:
    """One page.

    name      of the page and of `minillm read NAME`.       title     one line.
    group     "layers", "losses", "optimizers", "attention ladder" or "one page".
    module    with derivation (its docstring), forward and backward.
    pairs     in reading order.
    kernels   CUDA sources, below the folder of minillm.kernels, in reading order.
    case      of checks.cases, whose inputs are those of the small real pass; "" for a pass of its own.
    """

    name: str
    title: str
    group: str
    module: str
    pairs: tuple[Pair, ...]
    kernels: tuple[str, ...] = ()
    case: str = ""

    @property
    def home(self) -> ModuleType:
        """The module itself."""
        return import_module(self.module)

    @property
    def derivation(self) -> str:
        """The docstring of the module."""
        return inspect.cleandoc(self.home.__doc__)


@dataclass(frozen=True)
class Source:
    """A function as it is in its file. first: the number of its first line there."""

    function: str
    path: Path
    first: int
    lines: tuple[str, ...]

    @cached_property
    def tree(self) -> ast.FunctionDef:
        """Its syntax tree, with line numbers of the file."""
        raise NotImplementedError


@dataclass(frozen=True)
class Place:
    """Lines of a function: first to last, both included, as numbered in the file."""

    function: str
    first: int
    last: int


@dataclass(frozen=True)
class Tie:
    """A backward statement and the forward statements that it differentiates."""

    backward: Place
    forward: tuple[Place, ...]


@dataclass(frozen=True)
class Seen:
    """A name after a line ran in the small real pass. values: the first few; norm: Euclidean."""

    function: str
    line: int
    name: str
    shape: tuple[int, ...]
    norm: float
    values: tuple[float, ...]
