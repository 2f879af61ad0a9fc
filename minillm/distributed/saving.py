"""A file that all ranks write, each its part, and that is there whole or not at all.

    rank 0:  makes a temporary file of full size     | others wait
    all:     write their bytes, flush, close
    rank 0:  gives the file its name                 | others wait

After each line the ranks tell each other how it went (together.py): if one could not write, for
whatever reason, all raise its error, rank 0 deletes the temporary file, and what had the name
before still has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from minillm.distributed.communicator import Communicator
from minillm.distributed.together import text_of_rank_0, together
from minillm.files.atomic import naming, replacing
from minillm.files.safetensors_parts import Part, Plan


@contextmanager
def replacing_together(path: Path, communicator: Communicator) -> Iterator[Path]:
    """As `replacing` (files/atomic.py), for a file that all ranks write: all get the same temporary
    path. Raises OSError, with `path` as its file name, in all ranks, where one's system refuses.
    """
    with naming(path), ExitStack() as stack:
        with together(communicator):
            temporary = stack.enter_context(replacing(path)) if communicator.rank == 0 else path
        yield path.with_name(text_of_rank_0(communicator, temporary.name))
        with together(communicator):
            stack.close()


def write_together(path: Path, plan: Plan, parts: Iterable[Part], communicator: Communicator) -> None:
    """Write a safetensors file. parts: of this rank; those of all ranks make up each tensor."""
    with together(communicator):
        if communicator.rank == 0:
            plan.create(path)
    with together(communicator):
        plan.write(path, parts)
