"""The operands of an instruction of PTX as C++: types, registers, addresses."""

from __future__ import annotations

import re

TYPES = {
    "u8": "unsigned char", "s8": "signed char", "b8": "unsigned char",
    "u16": "unsigned short", "s16": "short", "b16": "unsigned short",
    "u32": "unsigned", "s32": "int", "b32": "unsigned",
    "u64": "unsigned long long", "s64": "long long", "b64": "unsigned long long",
    "f16": "__half", "f16x2": "__half2", "bf16": "__nv_bfloat16", "bf16x2": "__nv_bfloat162",
    "f32": "float", "f64": "double", "pred": "bool",
}  # fmt: skip
SPECIAL = {
    "laneid": "minillm_sim::running->lane",
    "warpid": "minillm_ptx::warp()",
    "nwarpid": "((blockDim.x * blockDim.y * blockDim.z + 31) / 32)",
    "smid": "0u", "nsmid": "1u", "gridid": "0u",
    "clock": "static_cast<unsigned>(clock64())", "clock64": "clock64()", "globaltimer": "clock64()",
    "lanemask_eq": "(1u << minillm_sim::running->lane)",
    "lanemask_lt": "((1u << minillm_sim::running->lane) - 1)",
    "lanemask_le": "((2u << minillm_sim::running->lane) - 1)",
    "lanemask_gt": "~((2u << minillm_sim::running->lane) - 1)",
    "lanemask_ge": "~((1u << minillm_sim::running->lane) - 1)",
    **{f"tid.{a}": f"threadIdx.{a}" for a in "xyz"}, **{f"ctaid.{a}": f"blockIdx.{a}" for a in "xyz"},
    **{f"ntid.{a}": f"blockDim.{a}" for a in "xyz"}, **{f"nctaid.{a}": f"gridDim.{a}" for a in "xyz"},
}  # fmt: skip


class UnknownInstruction(Exception):
    """The text says what in an asm statement is not known."""


def type_of(parts: list[str], number: int = -1) -> str:
    """The C++ type that an instruction's name ends with."""
    return TYPES[[part for part in parts[1:] if part in TYPES][number]]


def put(to: str, value: str, kind: str | None = None) -> str:
    if to == "_":
        return f"(void)({value});"
    return f"minillm_ptx::put({to}, {f'static_cast<{kind}>({value})' if kind else value});"


def as_type(kind: str, value: str) -> str:
    if value.startswith("$"):
        name = value[1:]
        return f"static_cast<{kind}>({SPECIAL[name]})"
    return f"minillm_ptx::as<{kind}>({value})" if not re.match(r"-?\d", value) else f"static_cast<{kind}>({value})"


def address(parts: list[str], operand: tuple) -> str:
    if not isinstance(operand, tuple):
        raise UnknownInstruction(".".join(parts))
    return f"minillm_ptx::{'shared' if 'shared' in parts else 'generic'}({operand[0]})"
