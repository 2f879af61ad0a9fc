"""The child processes of this process, as Linux lists them."""

from pathlib import Path


def children() -> set[int]:
    """Their numbers, those included that have ended and were not waited for. Other tests of this process may have some:
    compare with what there was before.
    """
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}
