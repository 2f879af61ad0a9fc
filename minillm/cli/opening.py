"""Opening the model of a command, as --dtype says.

float32, float64        the file's weights are expanded to it
stored                  matrices stay as the file holds them, 16 bits or fewer, and are expanded as they are used
float16, bfloat16       the same; wider ones are rounded when they are opened
tf32, bfloat16          with evaluate on a GPU: how products are computed (backend/precision.py)
"""

from __future__ import annotations

from minillm.errors import UserError

KEPT = ("stored", "float16", "bfloat16")
HELP = "float32 or float64: what weights are expanded to; stored, float16, bfloat16: they stay small in memory."


def settings_of(dtype: str, device: str, low_precision: bool = False) -> dict[str, str]:
    """The arguments of `from_pretrained` for a --dtype. low_precision: whether a GPU may compute in
    tf32 and bfloat16. Raises UserError for a name that is none, and for one that the device lacks.
    """
    from minillm.backend.arrays import float_dtype

    if low_precision and (dtype == "tf32" or dtype == "bfloat16" and device != "cpu"):
        return {"dtype": dtype}
    if dtype in KEPT:
        if device != "cpu":
            raise UserError(f"--dtype {dtype} keeps weights as their file holds them, on the CPU alone: leave it out")
        return {"weights": dtype}
    if dtype not in ("float32", "float64"):
        raise UserError(f'unknown dtype "{dtype}": use float32, float64 or one of {", ".join(KEPT)}')
    return {"dtype": float_dtype(dtype).name}
