"""What each instruction of PTX is in C++, from its name and its operands (ptx.py reads them).

An operand is the text of a C++ expression, a list of them for {a, b}, a tuple of one for an
address.
"""

from __future__ import annotations

import re
from collections.abc import Callable

TYPES = {
    "u8": "unsigned char", "s8": "signed char", "b8": "unsigned char",
    "u16": "unsigned short", "s16": "short", "b16": "unsigned short",
    "u32": "unsigned", "s32": "int", "b32": "unsigned",
    "u64": "unsigned long long", "s64": "long long", "b64": "unsigned long long",
    "f16": "__half", "f16x2": "__half2", "bf16": "__nv_bfloat16", "bf16x2": "__nv_bfloat162",
    "f32": "float", "f64": "double", "pred": "bool",
}  # fmt: skip
WIDER = {"u16": "unsigned", "s16": "int", "u32": "unsigned long long", "s32": "long long"}
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
COMPARISONS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
OPERATORS = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "div": "/", "rem": "%"}
OF_FLOATS = {
    "ex2": "exp2", "lg2": "log2", "sqrt": "sqrt", "rsqrt": "rsqrt", "sin": "sin", "cos": "cos", "tanh": "tanh",
}  # fmt: skip
IGNORED = ("prefetch", "prefetchu", "discard", "applypriority", "griddepcontrol", "pmevent", "setmaxnreg")
ELEMENTS = {"f16": "__half", "bf16": "__nv_bfloat16", "tf32": "minillm_sim::Tf32", "s8": "signed char", "u8": "unsigned char",
            "f64": "double"}  # fmt: skip


class UnknownInstruction(Exception):
    """The text says what in an asm statement is not known."""


def translated(code: str, operands: list) -> str:
    """The C++ statement of an instruction, such as "add.f32".

    Raises UnknownInstruction.
    """
    parts = [part for part in code.replace("::", ".").split(".") if part]
    translate = _TABLE.get(parts[0])
    try:
        if translate is None:
            raise UnknownInstruction(code)
        return translate(code, parts, operands)
    except (IndexError, ValueError, KeyError, TypeError, AttributeError):
        raise UnknownInstruction(code) from None


def _type(parts: list[str], number: int = -1) -> str:
    """The C++ type that an instruction's name ends with."""
    return TYPES[[part for part in parts[1:] if part in TYPES][number]]


def _put(to: str, value: str, kind: str | None = None) -> str:
    if to == "_":
        return f"(void)({value});"
    return f"minillm_ptx::put({to}, {f'static_cast<{kind}>({value})' if kind else value});"


def _as(kind: str, value: str) -> str:
    if value.startswith("$"):
        name = value[1:]
        return f"static_cast<{kind}>({SPECIAL[name]})"
    return f"minillm_ptx::as<{kind}>({value})" if not re.match(r"-?\d", value) else f"static_cast<{kind}>({value})"


def _operator(code, parts, operands):
    kind, (to, a, b) = _type(parts), operands
    return _put(to, f"{_as(kind, a)} {OPERATORS[parts[0]]} {_as(kind, b)}", kind)


def _multiply(code, parts, operands):
    kind = _type(parts)
    (to, a, b), add = operands[:3], operands[3:]
    if "wide" in parts:
        kind = WIDER[parts[-1]]
        product = f"static_cast<{kind}>({_as(TYPES[parts[-1]], a)}) * {_as(TYPES[parts[-1]], b)}"
    elif "hi" in parts:
        product = f"minillm_ptx::high<{kind}>({_as(kind, a)}, {_as(kind, b)})"
    else:
        product = f"{_as(kind, a)} * {_as(kind, b)}"
    return _put(to, f"{product} + {_as(kind, add[0])}" if add else product, kind)


def _fma(code, parts, operands):
    kind = _type(parts)
    name = "fma" if kind in ("float", "double") else "__hfma2" if kind.endswith("2") else "__hfma"
    return _put(operands[0], f"{name}({', '.join(_as(kind, each) for each in operands[1:])})", kind)


def _least(code, parts, operands):
    kind, (to, a, b) = _type(parts), operands
    half = kind.startswith(("__half", "__nv"))
    name = ("__h" if half else "") + parts[0] + ("2" if kind.endswith(("half2", "162")) else "")
    return _put(to, f"{name}({_as(kind, a)}, {_as(kind, b)})", kind)


def _of_one(expression: str) -> Callable:
    """An instruction of one operand; {0} in the expression."""
    return lambda code, parts, operands: _put(
        operands[0], expression.format(_as(_type(parts), operands[1])), _type(parts)
    )


def _count(expression: str) -> Callable:
    """One whose result has 32 bits."""
    return lambda code, parts, operands: _put(
        operands[0], expression.format(_as(_type(parts), operands[1])), "unsigned"
    )


def _of_float(code, parts, operands):
    return _put(operands[0], f"{OF_FLOATS[parts[0]]}({_as(_type(parts), operands[1])})", _type(parts))


def _move(code, parts, operands):
    to, value = operands
    if isinstance(value, list):
        if isinstance(to, list):
            return " ".join(_put(a, b) for a, b in zip(to, value))
        bits = int(parts[-1][1:]) // len(value)
        whole = TYPES[parts[-1]]
        half = TYPES[f"u{bits}"]
        joined = " | ".join(f"static_cast<{whole}>({_as(half, each)}) << {bits * i}" for i, each in enumerate(value))
        return _put(to, joined, whole)
    kind = _type(parts)
    if isinstance(to, list):
        bits = int(parts[-1][1:]) // len(to)
        return " ".join(_put(each, f"{_as(kind, value)} >> {bits * i}", TYPES[f"u{bits}"]) for i, each in enumerate(to))
    return _put(to, _as(kind, value))


def _convert(code, parts, operands):
    to, *values = operands
    target, origin = parts[-2], parts[-1]
    if target == "tf32":
        return _put(to, f"minillm_ptx::to_tf32({_as('float', values[0])})")
    if target in ("f16x2", "bf16x2"):
        high, low = (f"{TYPES[target[:-2]]}({_as('float', each)})" for each in values)
        return _put(to, f"{TYPES[target]}({low}, {high})")
    value = _as(TYPES[origin], values[0])
    rounding = next((part[:2] for part in parts if part in ("rni", "rzi", "rmi", "rpi")), "")
    if rounding and target in TYPES:
        rounded = {"rn": "rint", "rz": "trunc", "rm": "floor", "rp": "ceil"}[rounding]
        value = f"{rounded}({value if origin in ('f32', 'f64') else f'static_cast<float>({value})'})"
    elif origin in ("f16", "bf16"):
        value = f"static_cast<float>({value})"
    return _put(to, f"static_cast<{TYPES[target]}>({value})")


def _to_address(code, parts, operands):
    to, value = operands
    if isinstance(value, tuple):
        raise UnknownInstruction(code)
    if "shared" in parts:
        call = "minillm_sim_shared_offset(minillm_ptx::generic({}))" if "to" in parts else "minillm_ptx::shared({})"
        return _put(
            to,
            f"reinterpret_cast<size_t>({call.format(value)})" if "to" not in parts else call.format(value),
            TYPES[parts[-1]],
        )
    return _put(to, value)


def _address(parts: list[str], operand: tuple) -> str:
    if not isinstance(operand, tuple):
        raise UnknownInstruction(".".join(parts))
    return f"minillm_ptx::{'shared' if 'shared' in parts else 'generic'}({operand[0]})"


def _load(code, parts, operands):
    to, address = operands
    if "param" in parts:
        raise UnknownInstruction(code)
    fence = " minillm_sim_fence();" if "acquire" in parts else ""
    if {"volatile", "relaxed", "acquire"} & set(parts) and not isinstance(to, list):
        kind = _type(parts)
        return _put(to, f"*static_cast<volatile {kind}*>({_address(parts, address)})") + fence
    registers = to if isinstance(to, list) else [to]
    return f"minillm_ptx::load<{_type(parts)}>({', '.join((_address(parts, address), *registers))});"


def _store(code, parts, operands):
    address, value = operands
    kind = _type(parts)
    fence = "minillm_sim_fence(); " if "release" in parts else ""
    if {"volatile", "relaxed", "release"} & set(parts) and not isinstance(value, list):
        return f"{fence}*static_cast<volatile {kind}*>({_address(parts, address)}) = {_as(kind, value)};"
    registers = value if isinstance(value, list) else [value]
    values = (each if not re.match(r"-?\d", each) else _as(kind, each) for each in registers)
    return f"minillm_ptx::store<{kind}>({', '.join((_address(parts, address), *values))});"


def _atomic(code, parts, operands):
    *to, address, value = operands if parts[0] == "red" or "cas" not in parts else [*operands[:2], operands[2:]]
    name = next(
        part for part in parts if part in ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
    )
    kind = _type(parts)
    pointer = f"static_cast<{kind}*>({_address(parts, address)})"
    values = value if isinstance(value, list) else [value]
    call = f"atomic{'CAS' if name == 'cas' else name.capitalize()}({', '.join((pointer, *(_as(kind, v) for v in values)))})"
    before = "minillm_sim_fence(); " if {"release", "acq_rel"} & set(parts) else ""
    after = " minillm_sim_fence();" if {"acquire", "acq_rel"} & set(parts) else ""
    return before + (_put(to[0], call) if to else f"{call};") + after


def _select(code, parts, operands):
    to, a, b, chosen = operands
    return _put(to, f"({chosen} ? {_as(_type(parts), a)} : {_as(_type(parts), b)})")


def _compare(code, parts, operands):
    to, a, b = operands[:3]
    if len(operands) > 3:
        raise UnknownInstruction(code)
    value = f"{_as(_type(parts), a)} {COMPARISONS[parts[1]]} {_as(_type(parts), b)}"
    if parts[0] == "set":
        return _put(
            to,
            f"({value}) ? {'1.0f' if parts[2] == 'f32' else '0xffffffffu'} : {'0.0f' if parts[2] == 'f32' else '0u'}",
        )
    return f"{to} = {value};"


def _shift(code, parts, operands):
    kind, (to, a, b) = _type(parts), operands
    name = "shifted_left" if parts[0] == "shl" else "shifted_right"
    return _put(to, f"minillm_ptx::{name}<{kind}>({_as(kind, a)}, {_as('unsigned', b)})")


def _funnel(code, parts, operands):
    name = f"__funnelshift_{parts[1]}{'c' if parts[2] == 'clamp' else ''}"
    return _put(operands[0], f"{name}({', '.join(_as('unsigned', each) for each in operands[1:])})")


def _call(name: str, kind: str | None = None) -> Callable:
    """A function of the operands behind the first."""

    def translate(code, parts, operands):
        each = kind or _type(parts)
        return _put(operands[0], f"{name}({', '.join(_as(each, value) for value in operands[1:])})")

    return translate


def _field(name: str) -> Callable:
    def translate(code, parts, operands):
        kind = _type(parts)
        *fields, start, length = operands[1:]
        values = [*(_as(kind, each) for each in fields), _as("unsigned", start), _as("unsigned", length)]
        return _put(operands[0], f"minillm_ptx::{name}<{kind}>({', '.join(values)})")

    return translate


def _copy(code, parts, operands):
    if parts[1] != "async" or "bulk" in parts or "mbarrier" in parts:
        raise UnknownInstruction(code)
    if "commit_group" in parts:
        return "minillm_sim_copy_commit();"
    if "wait_all" in parts:
        return "minillm_sim_copy_wait(-1);"
    if "wait_group" in parts:
        return f"minillm_sim_copy_wait({operands[0]});"
    to, origin, size, *given = operands
    given = [each for each in given[:1] if "cache_hint" not in parts or len(given) > 1]
    return (
        f"minillm_sim_copy_start(minillm_ptx::shared({to[0]}), minillm_ptx::generic({origin[0]}), {size}, "
        f"{given[0] if given else size});"
    )


def _matrices(code, parts, operands):
    count = int(next(part[1:] for part in parts if re.fullmatch(r"x[124]", part)))
    if "m8n8" not in parts or parts[-1] != "b16":
        raise UnknownInstruction(code)
    transposed = "true" if "trans" in parts else "false"
    if parts[0] == "stmatrix":
        address, registers = operands
        gathered = f"minillm_ptx::gathered({', '.join(registers if isinstance(registers, list) else [registers])})"
        return f"minillm_ptx::store_matrices<{count}, {transposed}>(minillm_ptx::shared({address[0]}), {gathered});"
    registers, address = operands
    registers = registers if isinstance(registers, list) else [registers]
    puts = " ".join(_put(each, f"minillm_d.at[{i}]") for i, each in enumerate(registers))
    return (
        f"minillm_ptx::Registers<unsigned, {count}> minillm_d; "
        f"minillm_ptx::load_matrices<{count}, {transposed}>(minillm_d, minillm_ptx::shared({address[0]})); {puts}"
    )


def _multiply_matrices(code, parts, operands):
    shape = re.search(
        r"\.m(8|16)n8k(\d+)\.row\.col\.(?:satfinite\.)?(f16|f32|f64|s32)\.(\w+)\.(\w+)\.(f16|f32|f64|s32)$", code
    )
    rows, depth, sum_type, a_type, b_type = shape[1], shape[2], shape[3], ELEMENTS[shape[4]], ELEMENTS[shape[5]]
    if (rows, depth) == ("8", "4") and sum_type != "f64":
        raise UnknownInstruction(code)
    d, a, b, c = ([each] if isinstance(each, str) else each for each in operands)
    wide = "_wide" if sum_type == "f64" else ""
    values = ", ".join(
        f"minillm_ptx::gathered{wide}({', '.join(_zero(v, sum_type) for v in each)})" for each in (a, b, c)
    )
    kind = "double" if wide else "unsigned"
    puts = " ".join(_put(each, f"minillm_d.at[{i}]") for i, each in enumerate(d))
    return (
        f"minillm_ptx::Registers<{kind}, {len(d)}> minillm_d; "
        f"minillm_ptx::multiply<{rows}, {depth}, {a_type}, {b_type}, {TYPES[sum_type]}>(minillm_d, {values}); {puts}"
    )


def _zero(value: str, kind: str) -> str:
    """A constant among the registers of a matrix."""
    return value if not re.match(r"-?\d", value) else f"static_cast<{TYPES[kind]}>({value})"


def _barrier(code, parts, operands):
    if "warp" in parts:
        return f"__syncwarp({_as('unsigned', operands[0])});"
    if parts[0] == "barrier" and ("cluster" in parts or "arrive" in parts):
        raise UnknownInstruction(code)
    if "sync" not in parts or len(operands) > 1 or operands[:1] not in (["0"], []):
        raise UnknownInstruction(f"{code} with the number of a barrier or of threads")
    return "__syncthreads();"


def _fence(code, parts, operands):
    if "proxy" in parts or "mbarrier_init" in parts:
        raise UnknownInstruction(code)
    block = "cta" in parts
    return "minillm_sim_fence_block();" if block else "minillm_sim_fence();"


def _shuffle(code, parts, operands):
    to, value, by, bound, mask = operands
    if isinstance(to, list) or parts[1] != "sync" or "|" in to:
        raise UnknownInstruction(code)
    if not re.fullmatch(r"0x\w+|\d+", bound):
        raise UnknownInstruction(code)
    width = 32 - (int(bound, 0) >> 8 & 31)
    if int(bound, 0) & 31 != (0 if parts[2] == "up" else 31):
        raise UnknownInstruction(code)
    name = {"idx": "__shfl_sync", "up": "__shfl_up_sync", "down": "__shfl_down_sync", "bfly": "__shfl_xor_sync"}[
        parts[2]
    ]
    return _put(to, f"{name}({_as('unsigned', mask)}, {_as('unsigned', value)}, {_as('int', by)}, {width})")


def _vote(code, parts, operands):
    if parts[1] != "sync":
        raise UnknownInstruction(code)
    name = {"ballot": "__ballot_sync", "all": "__all_sync", "any": "__any_sync"}[parts[2]]
    to, predicate, mask = operands
    call = f"{name}({_as('unsigned', mask)}, {predicate})"
    return _put(to, call) if parts[2] == "ballot" else f"{to} = {call};"


def _reduce(code, parts, operands):
    return _put(
        operands[0], f"__reduce_{parts[2]}_sync({_as('unsigned', operands[2])}, {_as(_type(parts), operands[1])})"
    )


def _nothing(code, parts, operands):
    return ";"


_TABLE: dict[str, Callable] = {
    **dict.fromkeys(OPERATORS, _operator),
    **dict.fromkeys(("mul", "mad"), _multiply),
    **dict.fromkeys(OF_FLOATS, _of_float),
    **dict.fromkeys(IGNORED, _nothing),
    **dict.fromkeys(("min", "max"), _least),
    **dict.fromkeys(("setp", "set"), _compare),
    **dict.fromkeys(("shl", "shr"), _shift),
    **dict.fromkeys(("atom", "red"), _atomic),
    **dict.fromkeys(("ldmatrix", "stmatrix"), _matrices),
    **dict.fromkeys(("bar", "barrier"), _barrier),
    **dict.fromkeys(("membar", "fence"), _fence),
    "fma": _fma, "mov": _move, "cvt": _convert, "cvta": _to_address, "ld": _load, "ldu": _load, "st": _store,
    "selp": _select, "shf": _funnel, "shfl": _shuffle, "vote": _vote, "redux": _reduce, "cp": _copy,
    "mma": _multiply_matrices, "neg": _of_one("-{0}"), "not": _of_one("~{0}"), "abs": _of_one("({0} < 0 ? -{0} : {0})"),
    "rcp": _of_one("1 / {0}"), "popc": _count("__popcll({0})"), "brev": _of_one("minillm_ptx::reversed({0})"),
    "clz": _count("minillm_ptx::leading_zeros({0})"), "lop3": _call("minillm_ptx::bits_by_table", "unsigned"),
    "prmt": _call("__byte_perm", "unsigned"), "bfe": _field("extract"), "bfi": _field("insert"), "dp4a": _call("__dp4a"),
    "movmatrix": lambda code, parts, operands: _put(operands[0], f"minillm_ptx::transposed({operands[1]})"),
    "activemask": lambda code, parts, operands: _put(operands[0], "__activemask()"),
    "nanosleep": lambda code, parts, operands: f"__nanosleep({operands[0]});",
    "trap": lambda code, parts, operands: "__trap();",
    "createpolicy": lambda code, parts, operands: _put(operands[0], "0ull"),
    "isspacep": lambda code, parts, operands: f"{operands[0]} = minillm_sim_is_shared(minillm_ptx::generic({operands[1]}))"
    f" == {int('shared' in parts)};",
}  # fmt: skip
