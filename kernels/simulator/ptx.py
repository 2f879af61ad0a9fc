"""Inline PTX as C++: each asm statement of a source becomes a block that calls what ptx.h and
tensor_core.h define.

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from));

becomes

    do { unsigned minillm_0 = minillm_ptx::in<unsigned>(to); ... minillm_sim_copy_start(...); }

A statement with an instruction that is not known here is left as it is: g++ refuses it, and
`unknown_instruction` says which one it was. Source: PTX ISA 8.5.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from minillm.kernels.simulator.ptx_instructions import translated
from minillm.kernels.simulator.ptx_operands import UnknownInstruction
from minillm.kernels.simulator.source import closing_bracket, without_literals

STATEMENT = re.compile(r"\b(?:asm|__asm__|__asm)\b(?:\s|\\\n|\bvolatile\b|\b__volatile__\b|\b__volatile\b)*\(")
LITERAL = re.compile(r'"(?:[^"\\]|\\[\s\S])*"')
OPERAND = re.compile(r'\s*(?:\[(?P<name>\w+)\]\s*)?"(?P<constraint>[^"]*)"\s*\((?P<value>[\s\S]*)\)\s*$')
ADDRESS = re.compile(r"\[\s*(?P<base>[%$\w]+)\s*(?:(?P<sign>[+-])\s*(?P<offset>[%$\w]+))?\s*\]")
REGISTERS = {"h": "unsigned short", "r": "unsigned", "l": "unsigned long long", "f": "float", "d": "double", "n": ""}
DECLARED = {"pred": "bool", "8": "unsigned char", "16": "unsigned short", "32": "unsigned", "64": "unsigned long long"}
INSTRUCTION = re.compile(
    r"\s*(?:(?P<open>\{)|(?P<close>\})|\.reg\s+\.(?P<type>\w+)\s+(?P<names>[^;]+);|"
    r"(?:@(?P<not>!?)(?P<guard>\w+)\s+)?(?P<code>[a-z][\w.:]*)\s*(?P<operands>[^;]*);)"
)


class Operand(NamedTuple):
    """name: of the C++ variable that holds it. value: the author's expression, constraint: as it
    is there."""

    name: str
    constraint: str
    value: str

    @property
    def register(self) -> str:
        """The C++ type of the register; "" for a constant."""
        return REGISTERS[self.constraint.strip("=+&")]


def with_ptx_as_cpp(source: str) -> str:
    """The source with C++ in place of the inline PTX that is known. Line numbers stay."""
    plain = without_literals(source)
    for found in reversed(list(STATEMENT.finditer(plain))):
        end = closing_bracket(plain, found.end() - 1)
        text = source[found.end() : end - 1]
        try:
            block = _block(text, plain[found.end() : end - 1])
        except UnknownInstruction:
            continue
        if block is not None:
            lines = re.sub(
                r"[^\n\\]|\\(?!\n)", "", source[found.start() : end]
            )  # within a macro they end in a backslash
            source = source[: found.start()] + block + lines + source[end:]
    return source


def unknown_instruction(source: str) -> tuple[int, str] | None:
    """Where the first asm statement begins that cannot be translated, and what in it."""
    plain = without_literals(source)
    for found in STATEMENT.finditer(plain):
        end = closing_bracket(plain, found.end() - 1)
        try:
            if _block(source[found.end() : end - 1], plain[found.end() : end - 1]) is None:
                continue
        except UnknownInstruction as error:
            return found.start(), str(error)
    return None


def _block(text: str, plain: str) -> str | None:
    """The C++ for what is in an asm statement's brackets; None where there is no instruction.

    plain: the same text with its literals blanked.
    """
    parts = _sections(text, plain)
    template = _template(parts[0])
    if not template.strip():
        return None
    outputs, inputs = ([_operand(each) for each in _listed(part)] for part in (*parts[1:3], "", "")[:2])
    operands = [Operand(f"minillm_{number}", *each[1:]) for number, each in enumerate(outputs + inputs)]
    names = {each[0]: number for number, each in enumerate(outputs + inputs) if each[0]}
    first = [_begin(each) for each in operands]
    last = [_end(each) for each in operands[: len(outputs)]]
    body = _instructions(_with_names(template, names, has_operands=len(parts) > 1), operands)
    return " ".join(("do {", *first, *body, *last, "} while (0)"))


def _sections(text: str, plain: str) -> list[str]:
    """The template, the outputs, the inputs, the clobbers: what colons outside of brackets
    divide."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(plain):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == ":" and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def _template(text: str) -> str:
    """The text of adjacent literals."""
    if re.sub(r"\\\n", " ", LITERAL.sub("", text)).strip():
        raise UnknownInstruction("a template that a macro puts together")
    return "".join(ast.literal_eval(each) for each in LITERAL.findall(re.sub(r"\\\n", "", text)))


def _listed(text: str) -> list[str]:
    """The operands of a section."""
    plain, parts, depth, start = without_literals(text), [], 0, 0
    for i, letter in enumerate(plain + ","):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part for part in parts if part.strip(" \t\n\\")]


def _operand(text: str) -> Operand:
    found = OPERAND.match(text.replace("\\\n", " "))
    if not found or found["constraint"].strip("=+&") not in REGISTERS:
        raise UnknownInstruction(f"the operand {' '.join(text.split())}")
    return Operand(found["name"] or "", found["constraint"], " ".join(found["value"].split()))


def _begin(operand: Operand) -> str:
    if operand.constraint.startswith("="):
        return f"{operand.register} {operand.name};"
    if not operand.register:
        return f"constexpr auto {operand.name} = {operand.value};"
    return f"{operand.register} {operand.name} = minillm_ptx::in<{operand.register}>({operand.value});"


def _end(operand: Operand) -> str:
    return f"minillm_ptx::out({operand.value}, {operand.name});"


def _with_names(template: str, names: dict[str, int], has_operands: bool) -> str:
    """The template with numbers for named operands, and special registers marked by $."""
    for name, number in names.items():
        template = template.replace(f"%[{name}]", f"%{number}")
    template = re.sub(r"//[^\n]*|/\*[\s\S]*?\*/", " ", template)
    return template.replace("%%", "$") if has_operands else template.replace("%", "$")


def _instructions(template: str, operands: list[Operand]) -> list[str]:
    lines, position, template = [], 0, template.strip()
    declared: dict[str, str] = {}
    if not template.endswith((";", "}")):
        template += ";"
    while position < len(template):
        found = INSTRUCTION.match(template, position)
        if not found:
            if not template[position:].strip(" \t\n;"):
                break
            raise UnknownInstruction(" ".join(template[position:].split())[:60])
        position = found.end()
        if found["open"] or found["close"]:
            lines.append(found[0].strip())
        elif found["type"]:
            lines.append(_declaration(found["type"], found["names"], declared))
        else:
            code = translated(found["code"], _arguments(found["operands"], operands, declared))
            guard = f"if ({found['not']}minillm_r_{found['guard']}) " if found["guard"] else ""
            lines.append(f"{guard}{{ {code} }}" if guard else code)
    return lines


def _declaration(kind: str, names: str, declared: dict[str, str]) -> str:
    cpp = (
        {"f32": "float", "f64": "double"}.get(kind) or DECLARED.get(kind) or DECLARED.get(re.sub(r"^[a-z]+", "", kind))
    )
    if cpp is None:
        raise UnknownInstruction(f".reg .{kind}")
    every = []
    for name in (each.strip() for each in names.split(",")):
        counted = re.fullmatch(r"(%?\w+)<(\d+)>", name)
        every += [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [name]
    variables = [f"minillm_r_{name.strip('%$')}" for name in every]
    declared.update((name.strip("%$"), cpp) for name in every)
    return f"{cpp} {', '.join(variables)};"


def _arguments(text: str, operands: list[Operand], declared: dict[str, str]) -> list:
    """The operands of an instruction: C++ expressions, a list for {...}, a tuple (address,) for
    [...]."""
    found = []
    for part in map(str.strip, _comma_separated(text)):
        if part.startswith("{"):
            found.append([_argument(each.strip(), operands, declared) for each in part.strip("{} \t\n").split(",")])
        elif part.startswith("["):
            address = ADDRESS.fullmatch(part)
            if not address:
                raise UnknownInstruction(f"the operand {part}")
            base = _argument(address["base"], operands, declared)
            offset = f" {address['sign']} {_argument(address['offset'], operands, declared)}" if address["sign"] else ""
            found.append((base + offset,))
        else:
            found.append(_argument(part, operands, declared))
    return found


def _comma_separated(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text + ","):
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part for part in parts if part.strip()]


def _argument(text: str, operands: list[Operand], declared: dict[str, str]) -> str:
    if text.startswith("%"):
        if not text[1:].isdigit() or int(text[1:]) >= len(operands):
            if text[1:] in declared:
                return f"minillm_r_{text[1:]}"
            raise UnknownInstruction(f"the operand {text}")
        return operands[int(text[1:])].name
    if text in declared or text.lstrip("$!") in declared:
        return f"{'!' if text.startswith('!') else ''}minillm_r_{text.lstrip('$!')}"
    if text.startswith("$"):
        return text
    bits = re.fullmatch(r"0([fd])([0-9a-fA-F]+)", text)
    if bits:
        kind = "float" if bits[1] == "f" else "double"
        return f"minillm_bits<{kind}>(0x{bits[2]}{'u' if bits[1] == 'f' else 'ull'})"
    if re.fullmatch(r"-?(?:0x[0-9a-fA-F]+|\d+)U?|-?\d+\.\d*(?:e[-+]?\d+)?", text):
        return text
    raise UnknownInstruction(f"the operand {text}")
