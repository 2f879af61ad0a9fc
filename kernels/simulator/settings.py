"""The settings of the simulator that a call does not give."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from minillm.kernels.simulator.breakpoints import Breakpoint
from minillm.kernels.simulator.profile import Profile
from minillm.kernels.simulator.tracing import Trace

MODES = ("run", "check", "profile")
ORDERS = ("ascending", "descending", "shuffled")


@dataclass(frozen=True)
class Settings:
    """mode: "run", "check" or "profile"; None leaves it to the RawModule. order: in which order
    threads take turns. seed: of the order "shuffled". threads: OS threads over which blocks are
    spread, None for one a processor.
    profile: where kernels run in the mode "profile" are added up. progress: is called with the name
    of a source before it is compiled, and with "" when it has been. seconds: of processor time that
    a launch may take; a kernel that runs longer is a SimulatorError with the line at which it was.
    trace: in the modes "check" and "profile", the element whose last write is looked for.
    breakpoint: a line at which the variables of a warp are kept."""

    mode: str | None = None
    order: str = "ascending"
    seed: int = 0
    threads: int | None = None
    profile: Profile | None = None
    progress: Callable[[str], None] | None = None
    seconds: float | None = None
    trace: Trace | None = None
    breakpoint: Breakpoint | None = None


_current = Settings()


def current() -> Settings:
    return _current


@contextlib.contextmanager
def configured(**changes):
    """Within the `with` block, kernels run with these settings: configured(mode="check",
    order="shuffled", seed=3).

    `with configured(mode="profile") as profile` gives the Profile to which the kernels that run
    there are added.
    """
    global _current
    if changes.get("mode") not in (None, *MODES):
        raise ValueError(f"mode is {changes['mode']!r}, not one of {', '.join(MODES)}")
    if changes.get("order", "ascending") not in ORDERS:
        raise ValueError(f"order is {changes['order']!r}, not one of {', '.join(ORDERS)}")
    before = _current
    if changes.get("mode") == "profile":
        changes.setdefault("profile", Profile())
    _current = replace(before, **changes)
    try:
        yield _current.profile
    finally:
        _current = before
