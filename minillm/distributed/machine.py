"""On what a run trains: how many processes, threads, and what they share. No result depends on it.

These are no settings of the run: a run may be resumed with others, and its weights are the same, to
the last bit. What decides on the bits is `batch_parts`, a setting of the run (tree.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from minillm.errors import UserError
from minillm.models.config import option

PANEL = "Processes and machines"


@dataclass(frozen=True)
class Machine:
    """processes: of this machine, 0 for the best number; threads: of each process, 0 for the best
    number; zero: what ranks share among them: 1 the optimizer's state, 2 gradients as well, 3
    weights as well (where they share memory weights exist once anyway: there 3 is 2);
    tensor_parallel: how many ranks share each matrix; deadline: seconds after which a rank that
    does not answer is given up, 0 for ten times the longest step, a minute at least; workers:
    processes that count and encode the text of a new run.

    Under mpiexec or SLURM the number of processes is theirs. Raises UserError for numbers that make
    no sense.
    """

    processes: int = option(0, "Processes of this machine; 0: as many as are faster.", PANEL, least=0)
    threads: int = option(0, "Threads of each process; 0: as many as it has cores.", PANEL, least=0)
    zero: int = option(1, "What ranks share: 1 optimizer, 2 also gradients, 3 also weights.", PANEL, least=1)
    tensor_parallel: int = option(1, "Ranks that share each matrix.", PANEL, least=1)
    deadline: float = option(0.0, "Seconds after which a silent rank is given up; 0: by the length of a step.", PANEL)

    workers: int = option(
        0, "Processes that read a large text, once; 0: one, and for more than 50 MB one for each core.", PANEL, least=0
    )

    def __post_init__(self):
        for field in fields(self):
            value, least = getattr(self, field.name), field.metadata.get("least")
            if least is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise UserError(f"{field.name} is {value!r}: it must be a whole number of at least {least}")
        if self.zero not in (1, 2, 3):
            raise UserError(f"--zero is {self.zero}: it must be 1, 2 or 3")
        if self.tensor_parallel > 1 and (self.threads > 1 or self.zero > 1):
            option = f"--threads {self.threads}" if self.threads > 1 else f"--zero {self.zero}"
            raise UserError(
                f"--tensor-parallel {self.tensor_parallel} with {option}: ranks that share matrices have one thread each, and "
                "share no more than the optimizer (--zero 1)"
            )
        if not self.deadline >= 0:
            raise UserError(f"--deadline is {self.deadline}: it must be a number of seconds, 0 for one that fits")

    @property
    def threads_in_all(self) -> int:
        """How many threads there are in all processes of this machine, as far as it is said."""
        return max(1, self.processes) * max(1, self.threads)


MACHINE_NAMES = tuple(field.name for field in fields(Machine))
