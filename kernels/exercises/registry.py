"""The exercises, in the order in which they build on each other."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from minillm.errors import UserError
from minillm.kernels.exercises.task import KernelTask, PythonTask

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Exercise:
    """name: of its folder, and of the reader's file. summary: what it is about, in a few words."""

    name: str
    summary: str

    @property
    def skeleton(self) -> Path:
        """What the reader begins with: a file of CUDA or of Python."""
        return next((HERE / self.name).glob("skeleton.*"))

    @property
    def file(self) -> str:
        """The name of the reader's file."""
        return self.name + self.skeleton.suffix

    @property
    def text(self) -> str:
        """The task."""
        return (HERE / self.name / "text.md").read_text(encoding="utf-8").strip()

    @property
    def hints(self) -> list[str]:
        """From a nudge to nearly the answer."""
        text = (HERE / self.name / "hints.md").read_text(encoding="utf-8")
        return [part.strip() for part in text.split("\n\n") if part.strip()]

    @property
    def task(self) -> KernelTask | PythonTask:
        return import_module(f"minillm.kernels.exercises.{self.name}.judge").TASK


EXERCISES = (
    Exercise("vector_add", "a thread an element, and the bound of the array"),
    Exercise("strided", "fewer threads than elements, neighbours for a warp"),
    Exercise("block_sum", "a tree of additions, with barriers and shuffles"),
    Exercise("transpose", "a tile in shared memory, and its banks"),
    Exercise("scan", "running sums, part by part"),
    Exercise("histogram", "counters that many threads add to"),
    Exercise("softmax", "a warp a row, without overflow"),
    Exercise("layer_norm", "a block a row, without cancellation"),
    Exercise("layer_norm_dx", "backward: two sums, and the row in registers"),
    Exercise("softmax_ds", "a warp a row, written in place"),
    Exercise("embedding_gradient", "repeated tokens: the same bits in every run"),
    Exercise("matmul_tiled", "a matrix product by tiles in shared memory"),
    Exercise("matmul_tensor_cores", "a matrix product on tensor cores, by wmma"),
    Exercise("flash_forward", "attention by tiles, a running maximum and sum"),
    Exercise("flash_backward", "dk and dv, from shares computed again"),
    Exercise("mend_column_sum", "a broken kernel: the gradient of a bias"),
    Exercise("mend_cross_entropy", "a broken kernel: the loss and its gradient"),
    Exercise("mend_layer_norm", "a broken backward pass: a term, a sum"),
    Exercise("mend_attention", "a broken backward pass: products, a softmax"),
    Exercise("mend_adamw", "a broken optimizer, against its formula"),
)


def exercise(name: str) -> Exercise:
    """The exercise of a name, or of its number in the list. Raises UserError for any other."""
    names = [each.name for each in EXERCISES]
    if name.isdecimal() and 1 <= int(name) <= len(EXERCISES):
        return EXERCISES[int(name) - 1]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        meant = f'did you mean "{near[0]}"? ' if near else ""
        raise UserError(f'no exercise "{name}": {meant}`minillm exercise` lists them')
    return EXERCISES[names.index(name)]
