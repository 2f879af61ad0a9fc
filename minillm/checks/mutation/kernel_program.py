"""A schema that compiles, and how its mutants are chosen.

A compiler does not take every change: a pointer less, a constant that has to be one. What it
complains about is left out, and the rest is compiled again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from minillm.checks.mutation.kernel_schema import Mutant, Schema, schema_of
from minillm.errors import UserError
from minillm.files.atomic import write_atomically
from minillm.kernels.simulator import CompileError, RawModule
from minillm.kernels.simulator.toolchain import cache_folder, compiler

ERROR = re.compile(r"^([^:\n]+):(\d+):(\d+): error: (.*)", re.MULTILINE)
FOLLOWS = re.compile(r"was not declared in this scope|has no member|is not a type")  # from another error
ROUNDS = 12
MODES = ("run", "check")


def compiled_schema(
    text: str,
    name: str,
    folders: Iterable[Path],
    module_of: Callable[[str], RawModule],
    compiles: Sequence[str] = MODES,
) -> Schema:
    """The schema of a source with all mutants that compile.

    name: what messages call the source. folders: where its headers are. module_of: makes the module
    of a schema's code. compiles: for these modes. Raises CompileError for a source that does not
    compile as it is, and UserError where it does not compile as a schema.
    """
    folders, without = tuple(folders), frozenset()
    schema = schema_of(text, name, folders, platform.machine())
    key = hashlib.sha256("\0".join((str(compiler()), *compiles, schema.code)).encode()).hexdigest()[:24]
    known = cache_folder() / f"mutants-{key}.json"
    if known.is_file():
        without = frozenset(json.loads(known.read_text(encoding="utf-8")))
    for _ in range(ROUNDS):
        schema = schema_of(text, name, folders, platform.machine(), without)
        try:
            for mode in compiles:
                module_of(schema.code).library(mode)
        except CompileError as error:
            if not without:
                module_of(f'#line 1 "{name}"\n{text}').library(compiles[0])
            wrong = _wrong(schema, error.log)
            if not wrong:
                raise UserError(f"{name} cannot be changed in many places at once: {error}") from None
            without |= wrong
        else:
            write_atomically(known, json.dumps(sorted(without)).encode())
            return schema
    raise UserError(f"{name} cannot be changed in many places at once: after {ROUNDS} rounds it does not compile")


def _wrong(schema: Schema, log: str) -> frozenset[str]:
    """The places of the mutants that a compiler complains about."""
    errors = ERROR.findall(log)
    first = [each for each in errors if not FOLLOWS.search(each[3])] or errors
    numbers = {number for file, line, column, _ in first for number in schema.at(int(line), int(column), file)}
    return frozenset(mutant.place for mutant in schema.mutants if mutant.number in numbers)


class Switch:
    """Chooses mutants in compiled modules, and says which places ran.

    modules: gives those that are loaded. mutants: all of the schema.
    """

    def __init__(self, modules: Callable[[], Iterable[RawModule]], mutants: Sequence[Mutant]):
        self.modules, self.mutants, self.count = modules, mutants, len(mutants)

    def choose(self, number: int | None, mode: str) -> None:
        """One mutant, or none, from now on."""
        for chosen, reached in self._arrays(mode):
            ctypes.memset(chosen, 0, self.count)
            reached[self.count] = 0
            if number is not None:
                chosen[number] = 1

    def note(self, mode: str) -> None:
        """From now on no mutant is chosen, and it is noted which places run."""
        for chosen, reached in self._arrays(mode):
            ctypes.memset(chosen, 1, self.count)
            ctypes.memset(reached, 0, self.count)
            reached[self.count] = 1

    def reached(self, mode: str) -> set[int]:
        """The mutants whose places ran since `note`."""
        return {n for _, reached in self._arrays(mode) for n, flag in enumerate(bytes(reached)[: self.count]) if flag}

    def _arrays(self, mode: str):
        for module in self.modules():
            functions = module.library(mode).functions
            yield tuple(
                (ctypes.c_ubyte * (self.count + extra)).in_dll(functions, name)
                for name, extra in (("minillm_chosen", 0), ("minillm_reached", 1))
            )
