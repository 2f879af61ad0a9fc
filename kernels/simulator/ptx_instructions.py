"""What each instruction of PTX is in C++, from its name and its operands (ptx.py reads them).

An operand is the text of a C++ expression, a list of them for {a, b}, a tuple of one for an
address.
"""

from __future__ import annotations

from collections.abc import Callable

from minillm.kernels.simulator import ptx_memory
from minillm.kernels.simulator.ptx_operands import TYPES, UnknownInstruction, as_type, put, type_of

WIDER = {"u16": "unsigned", "s16": "int", "u32": "unsigned long long", "s32": "long long"}
COMPARISONS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
}  # fmt: skip
COMPLEMENTS = {
    "equ": "!=",
    "neu": "==",
    "ltu": ">=",
    "leu": ">",
    "gtu": "<=",
    "geu": "<",
}  # true where one is no number
CHANGE_NUMBERS = {"rz", "rm", "rp", "rs", "relu", "NaN", "xorsign", "satfinite"}  # of floats
OPERATORS = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "div": "/", "rem": "%"}
OF_FLOATS = {
    "ex2": "exp2", "lg2": "log2", "sqrt": "sqrt", "rsqrt": "rsqrt", "sin": "sin", "cos": "cos", "tanh": "tanh",
}  # fmt: skip
IGNORED = ("prefetch", "prefetchu", "discard", "applypriority", "griddepcontrol", "pmevent", "setmaxnreg")


def translated(code: str, operands: list) -> str:
    """The C++ statement of an instruction, such as "add.f32".

    Raises UnknownInstruction.
    """
    parts = [part for part in code.replace("::", ".").split(".") if part]
    translate = KNOWN.get(parts[0])
    try:
        if translate is None or _gives_other_numbers(parts):
            raise UnknownInstruction(code)
        return translate(code, parts, operands)
    except (IndexError, ValueError, KeyError, TypeError, AttributeError):
        raise UnknownInstruction(code) from None


def _gives_other_numbers(parts: list[str]) -> bool:
    """Whether a modifier asks for another rounding, or another result, than C++ has."""
    if parts[0] == "mma":
        return False
    return bool(CHANGE_NUMBERS & set(parts)) or ("sat" in parts and parts[0] != "cvt")


def _operator(code, parts, operands):
    kind, (to, a, b) = type_of(parts), operands
    return put(to, f"{as_type(kind, a)} {OPERATORS[parts[0]]} {as_type(kind, b)}", kind)


def _multiply(code, parts, operands):
    kind = type_of(parts)
    (to, a, b), add = operands[:3], operands[3:]
    if "wide" in parts:
        kind = WIDER[parts[-1]]
        product = f"static_cast<{kind}>({as_type(TYPES[parts[-1]], a)}) * {as_type(TYPES[parts[-1]], b)}"
    elif "hi" in parts:
        product = f"minillm_ptx::high<{kind}>({as_type(kind, a)}, {as_type(kind, b)})"
    else:
        product = f"{as_type(kind, a)} * {as_type(kind, b)}"
    return put(to, f"{product} + {as_type(kind, add[0])}" if add else product, kind)


def _fma(code, parts, operands):
    kind = type_of(parts)
    name = "fma" if kind in ("float", "double") else "__hfma2" if kind.endswith("2") else "__hfma"
    return put(operands[0], f"{name}({', '.join(as_type(kind, each) for each in operands[1:])})", kind)


def _least(code, parts, operands):
    kind, (to, a, b) = type_of(parts), operands
    half = kind.startswith(("__half", "__nv"))
    name = ("__h" if half else "") + parts[0] + ("2" if kind.endswith(("half2", "162")) else "")
    return put(to, f"{name}({as_type(kind, a)}, {as_type(kind, b)})", kind)


def _of_one(expression: str) -> Callable:
    """An instruction of one operand; {0} in the expression."""
    return lambda code, parts, operands: put(
        operands[0], expression.format(as_type(type_of(parts), operands[1])), type_of(parts)
    )


def _count(expression: str) -> Callable:
    """One whose result has 32 bits."""
    return lambda code, parts, operands: put(
        operands[0], expression.format(as_type(type_of(parts), operands[1])), "unsigned"
    )


def _of_float(code, parts, operands):
    return put(operands[0], f"{OF_FLOATS[parts[0]]}({as_type(type_of(parts), operands[1])})", type_of(parts))


def _move(code, parts, operands):
    to, value = operands
    if isinstance(value, list):
        if isinstance(to, list):
            return " ".join(put(a, b) for a, b in zip(to, value))
        bits = int(parts[-1][1:]) // len(value)
        whole = TYPES[parts[-1]]
        half = TYPES[f"u{bits}"]
        joined = " | ".join(
            f"static_cast<{whole}>({as_type(half, each)}) << {bits * i}" for i, each in enumerate(value)
        )
        return put(to, joined, whole)
    kind = type_of(parts)
    if isinstance(to, list):
        bits = int(parts[-1][1:]) // len(to)
        return " ".join(
            put(each, f"{as_type(kind, value)} >> {bits * i}", TYPES[f"u{bits}"]) for i, each in enumerate(to)
        )
    return put(to, as_type(kind, value))


def _convert(code, parts, operands):
    to, *values = operands
    target, origin = parts[-2], parts[-1]
    if target == "tf32":
        return put(to, f"minillm_ptx::to_tf32({as_type('float', values[0])})")
    if target in ("f16x2", "bf16x2"):
        high, low = (f"{TYPES[target[:-2]]}({as_type('float', each)})" for each in values)
        return put(to, f"{TYPES[target]}({low}, {high})")
    value = as_type(TYPES[origin], values[0])
    rounding = next((part[:2] for part in parts if part in ("rni", "rzi", "rmi", "rpi")), "")
    if rounding and target in TYPES:
        rounded = {"rn": "rint", "rz": "trunc", "rm": "floor", "rp": "ceil"}[rounding]
        value = f"{rounded}({value if origin in ('f32', 'f64') else f'static_cast<float>({value})'})"
    elif origin in ("f16", "bf16"):
        value = f"static_cast<float>({value})"
    if "sat" in parts:
        if target != "f32":
            raise UnknownInstruction(code)
        value = f"__saturatef({value})"
    if rounding and target[0] in "su":
        return put(to, f"minillm_ptx::integer<{TYPES[target]}>({value})")
    return put(to, f"static_cast<{TYPES[target]}>({value})")


def _select(code, parts, operands):
    to, a, b, chosen = operands
    return put(to, f"({chosen} ? {as_type(type_of(parts), a)} : {as_type(type_of(parts), b)})")


def _compare(code, parts, operands):
    to, a, b, *other = operands
    a, b = (as_type(type_of(parts), each) for each in (a, b))
    if parts[1] in ("nan", "num"):
        value = f"({a} != {a} || {b} != {b}) == {int(parts[1] == 'nan')}"
    elif parts[1] == "ne" and type_of(parts) in ("float", "double"):
        value = f"({a} < {b} || {a} > {b})"
    elif parts[1] in COMPLEMENTS:
        value = f"!({a} {COMPLEMENTS[parts[1]]} {b})"
    else:
        value = f"{a} {COMPARISONS[parts[1]]} {b}"
    if other:
        value = f"({value}) {OPERATORS[parts[2]]} {other[0]}"
    if parts[0] == "set":
        return put(
            to,
            f"({value}) ? {'1.0f' if parts[2] == 'f32' else '0xffffffffu'} : {'0.0f' if parts[2] == 'f32' else '0u'}",
        )
    return f"{to} = {value};"


def _shift(code, parts, operands):
    kind, (to, a, b) = type_of(parts), operands
    name = "shifted_left" if parts[0] == "shl" else "shifted_right"
    return put(to, f"minillm_ptx::{name}<{kind}>({as_type(kind, a)}, {as_type('unsigned', b)})")


def _funnel(code, parts, operands):
    name = f"__funnelshift_{parts[1]}{'c' if parts[2] == 'clamp' else ''}"
    return put(operands[0], f"{name}({', '.join(as_type('unsigned', each) for each in operands[1:])})")


def _call(name: str, kind: str | None = None) -> Callable:
    """A function of the operands behind the first."""

    def translate(code, parts, operands):
        each = kind or type_of(parts)
        return put(operands[0], f"{name}({', '.join(as_type(each, value) for value in operands[1:])})")

    return translate


def _field(name: str) -> Callable:
    def translate(code, parts, operands):
        kind = type_of(parts)
        *fields, start, length = operands[1:]
        values = [*(as_type(kind, each) for each in fields), as_type("unsigned", start), as_type("unsigned", length)]
        return put(operands[0], f"minillm_ptx::{name}<{kind}>({', '.join(values)})")

    return translate


def _not(code, parts, operands):
    to, value = operands
    return f"{to} = !{value};" if parts[-1] == "pred" else put(to, f"~{as_type(type_of(parts), value)}", type_of(parts))


def _find_bit(code, parts, operands):
    shift = "true" if "shiftamt" in parts else "false"
    return put(operands[0], f"minillm_ptx::highest_bit<{shift}>({as_type(type_of(parts), operands[1])})")


def _permute(code, parts, operands):
    if parts[-1] != "b32":
        raise UnknownInstruction(code)
    return put(operands[0], f"minillm_ptx::permuted({', '.join(as_type('unsigned', each) for each in operands[1:])})")


def _nothing(code, parts, operands):
    return ";"


KNOWN: dict[str, Callable] = {
    **dict.fromkeys(OPERATORS, _operator),
    **dict.fromkeys(("mul", "mad"), _multiply),
    **dict.fromkeys(OF_FLOATS, _of_float),
    **dict.fromkeys(IGNORED, _nothing),
    **dict.fromkeys(("min", "max"), _least),
    **dict.fromkeys(("setp", "set"), _compare),
    **dict.fromkeys(("shl", "shr"), _shift),
    **dict.fromkeys(("atom", "red"), ptx_memory.atomic),
    **dict.fromkeys(("ldmatrix", "stmatrix"), ptx_memory.matrices),
    **dict.fromkeys(("bar", "barrier"), ptx_memory.barrier),
    **dict.fromkeys(("membar", "fence"), ptx_memory.fence),
    "fma": _fma, "mov": _move, "cvt": _convert, "cvta": ptx_memory.to_address, "ld": ptx_memory.load,
    "ldu": ptx_memory.load, "st": ptx_memory.store,
    "selp": _select, "shf": _funnel, "shfl": ptx_memory.shuffle, "vote": ptx_memory.vote,
    "redux": ptx_memory.reduce_lanes, "cp": ptx_memory.copy,
    "mma": ptx_memory.multiply_matrices, "neg": _of_one("-{0}"), "not": _not, "abs": _of_one("minillm_ptx::absolute({0})"),
    "rcp": _of_one("1 / {0}"), "popc": _count("__popcll({0})"), "brev": _of_one("minillm_ptx::reversed({0})"),
    "clz": _count("minillm_ptx::leading_zeros({0})"), "bfind": _find_bit,
    "match": ptx_memory.match, "lop3": _call("minillm_ptx::bits_by_table", "unsigned"),
    "prmt": _permute, "bfe": _field("extract"), "bfi": _field("insert"), "dp4a": _call("__dp4a"),
    "movmatrix": lambda code, parts, operands: put(operands[0], f"minillm_ptx::transposed({operands[1]})"),
    "activemask": lambda code, parts, operands: put(operands[0], "__activemask()"),
    "nanosleep": lambda code, parts, operands: f"__nanosleep({operands[0]});",
    "trap": lambda code, parts, operands: "__trap();",
    "createpolicy": lambda code, parts, operands: put(operands[0], "0ull"),
    "isspacep": lambda code, parts, operands: f"{operands[0]} = minillm_sim_is_shared(minillm_ptx::generic({operands[1]}))"
    f" == {int('shared' in parts)};",
}  # fmt: skip
