"""Instructions of PTX that reach memory or other lanes of a warp."""

from __future__ import annotations

import re

from minillm.kernels.simulator.ptx_operands import TYPES, UnknownInstruction, address, as_type, put, type_of

ELEMENTS = {"f16": "__half", "bf16": "__nv_bfloat16", "tf32": "minillm_sim::Tf32", "s8": "signed char", "u8": "unsigned char",
            "f64": "double"}  # fmt: skip


def to_address(code, parts, operands):
    to, value = operands
    if isinstance(value, tuple):
        raise UnknownInstruction(code)
    if "shared" in parts:
        call = "minillm_sim_shared_offset(minillm_ptx::generic({}))" if "to" in parts else "minillm_ptx::shared({})"
        return put(
            to,
            f"reinterpret_cast<size_t>({call.format(value)})" if "to" not in parts else call.format(value),
            TYPES[parts[-1]],
        )
    return put(to, value)


def load(code, parts, operands):
    to, place = operands
    if "param" in parts:
        raise UnknownInstruction(code)
    fence = " minillm_sim_fence();" if "acquire" in parts else ""
    if {"volatile", "relaxed", "acquire"} & set(parts) and not isinstance(to, list):
        kind = type_of(parts)
        return put(to, f"*static_cast<volatile {kind}*>({address(parts, place)})", kind) + fence
    registers = to if isinstance(to, list) else [to]
    return f"minillm_ptx::load<{type_of(parts)}>({', '.join((address(parts, place), *registers))});"


def store(code, parts, operands):
    place, value = operands
    kind = type_of(parts)
    fence = "minillm_sim_fence(); " if "release" in parts else ""
    if {"volatile", "relaxed", "release"} & set(parts) and not isinstance(value, list):
        return f"{fence}*static_cast<volatile {kind}*>({address(parts, place)}) = {as_type(kind, value)};"
    registers = value if isinstance(value, list) else [value]
    values = (each if not re.match(r"-?\d", each) else as_type(kind, each) for each in registers)
    return f"minillm_ptx::store<{kind}>({', '.join((address(parts, place), *values))});"


def atomic(code, parts, operands):
    *to, place, value = operands if parts[0] == "red" or "cas" not in parts else [*operands[:2], operands[2:]]
    name = next(
        part for part in parts if part in ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
    )
    kind = type_of(parts)
    pointer = f"static_cast<{kind}*>({address(parts, place)})"
    values = value if isinstance(value, list) else [value]
    call = f"atomic{'CAS' if name == 'cas' else name.capitalize()}({', '.join((pointer, *(as_type(kind, v) for v in values)))})"
    before = "minillm_sim_fence(); " if {"release", "acq_rel"} & set(parts) else ""
    after = " minillm_sim_fence();" if {"acquire", "acq_rel"} & set(parts) else ""
    return before + (put(to[0], call) if to else f"{call};") + after


def copy(code, parts, operands):
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


def matrices(code, parts, operands):
    count = int(next(part[1:] for part in parts if re.fullmatch(r"x[124]", part)))
    if "m8n8" not in parts or parts[-1] != "b16":
        raise UnknownInstruction(code)
    transposed = "true" if "trans" in parts else "false"
    if parts[0] == "stmatrix":
        place, registers = operands
        gathered = f"minillm_ptx::gathered({', '.join(registers if isinstance(registers, list) else [registers])})"
        return f"minillm_ptx::store_matrices<{count}, {transposed}>(minillm_ptx::shared({place[0]}), {gathered});"
    registers, place = operands
    registers = registers if isinstance(registers, list) else [registers]
    puts = " ".join(put(each, f"minillm_d.at[{i}]") for i, each in enumerate(registers))
    return (
        f"minillm_ptx::Registers<unsigned, {count}> minillm_d; "
        f"minillm_ptx::load_matrices<{count}, {transposed}>(minillm_d, minillm_ptx::shared({place[0]})); {puts}"
    )


def multiply_matrices(code, parts, operands):
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
    puts = " ".join(put(each, f"minillm_d.at[{i}]") for i, each in enumerate(d))
    return (
        f"minillm_ptx::Registers<{kind}, {len(d)}> minillm_d; "
        f"minillm_ptx::multiply<{rows}, {depth}, {a_type}, {b_type}, {TYPES[sum_type]}>(minillm_d, {values}); {puts}"
    )


def _zero(value: str, kind: str) -> str:
    """A constant among the registers of a matrix."""
    return value if not re.match(r"-?\d", value) else f"static_cast<{TYPES[kind]}>({value})"


def barrier(code, parts, operands):
    if "warp" in parts:
        return f"__syncwarp({as_type('unsigned', operands[0])});"
    if parts[0] == "barrier" and ("cluster" in parts or "arrive" in parts):
        raise UnknownInstruction(code)
    if "sync" not in parts or len(operands) > 1 or operands[:1] not in (["0"], []):
        raise UnknownInstruction(f"{code} with the number of a barrier or of threads")
    return "__syncthreads();"


def fence(code, parts, operands):
    if "proxy" in parts or "mbarrier_init" in parts:
        raise UnknownInstruction(code)
    block = "cta" in parts
    return "minillm_sim_fence_block();" if block else "minillm_sim_fence();"


def shuffle(code, parts, operands):
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
    return put(to, f"{name}({as_type('unsigned', mask)}, {as_type('unsigned', value)}, {as_type('int', by)}, {width})")


def vote(code, parts, operands):
    if parts[1] != "sync":
        raise UnknownInstruction(code)
    name = {"ballot": "__ballot_sync", "all": "__all_sync", "any": "__any_sync"}[parts[2]]
    to, predicate, mask = operands
    call = f"{name}({as_type('unsigned', mask)}, {predicate})"
    return put(to, call) if parts[2] == "ballot" else f"{to} = {call};"


def match(code, parts, operands):
    to, value, mask = operands
    if parts[1] != "any":
        raise UnknownInstruction(code)
    return put(to, f"__match_any_sync({as_type('unsigned', mask)}, {as_type(type_of(parts), value)})")


def reduce_lanes(code, parts, operands):
    return put(
        operands[0],
        f"__reduce_{parts[2]}_sync({as_type('unsigned', operands[2])}, {as_type(type_of(parts), operands[1])})",
    )
