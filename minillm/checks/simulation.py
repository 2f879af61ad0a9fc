"""What a run of a kernel in the simulator showed: data, and the report of `minillm simulate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from minillm.kernels.simulator import Profile
from minillm.kernels.simulator.breakpoints import Breakpoint
from minillm.kernels.simulator.errors import Fault


@dataclass
class Simulation:
    """One run.

    mode: "run", "check" or "profile". rows: what was run, on what, and whether its results are
    right, a line of text each. agrees: whether they are. seconds: compiling included. findings: the
    faults, a text each; then there are no rows. faults: those of them that a thread is known of.
    stop: where the variables of a warp were to be seen.
    """

    mode: str
    rows: list[str] = field(default_factory=list)
    agrees: bool = True
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    profile: Profile | None = None
    stop: Breakpoint | None = None

    @property
    def well(self) -> bool:
        """Whether the results are right, and no fault was found."""
        return self.agrees and not self.findings and (self.stop is None or self.stop.values is not None)

    def text(self, width: int) -> str:
        """The report. width: columns."""
        if self.stop:
            return f"{self.stop.report(width)}\n{self._of_the_run(width)}"
        return self._of_the_run(width)

    def _of_the_run(self, width: int) -> str:
        if self.findings:
            return "\n".join(["faults found:", *self.findings])
        parts = [*self.rows, f"  {self.seconds:.2f} s, compiling included"]
        if self.mode == "check":
            parts.append("  check mode: nothing to report")
        if self.mode == "profile":
            parts.append(self.profile.annotated(width))
        return "\n".join(parts)
