"""What g++ says of a kernel, as one line for its author: the file's line, and what to use in place
of what is not there.
"""

from __future__ import annotations

import difflib
import re

from minillm.kernels.simulator.ptx import unknown_instruction
from minillm.kernels.simulator.source import KernelText, line_of, masked, split_list

# What CUDA has and the simulator has not: name -> what to use. The first pattern that fits a whole
# name counts.
ABSENT = (
    (r"nvcuda|wmma|mma_sync|load_matrix_sync|bmma\w*", "this part of wmma", "one of the shapes in docs/simulator.md"),
    (r"cub", "cub", "shared memory with __syncthreads, __shfl_down_sync"),
    (r"thrust", "thrust in device code", "a loop, or __shfl_down_sync and atomicAdd"),
    (r"cute|cutlass", "CUTLASS", "plain loops over shared memory"),
    (r"curand\w*|CURAND\w*", "curand", "a generator of your own, such as kernels/philox.cuh"),
    (r"tex[123]D\w*|texture\w*|cudaTextureObject_t", "texture memory", "a pointer, or __ldg"),
    (r"surf\w*|cudaSurfaceObject_t", "surface memory", "a pointer"),
    (r"CUtensorMap|__grid_constant_tensor|cp_async_bulk\w*", "TMA", "plain loads into shared memory"),
    (r"__block_size__|cluster\w*|this_cluster|__cluster\w*", "clusters of blocks", "one block and its shared memory"),
    (r"barrier|pipeline|memcpy_async|wait_prior|wait|__pipeline\w*|cuda", "this part of libcu++ (cuda::)",
     "<cuda/barrier>, <cuda/pipeline>, or plain loads and __syncthreads"),
    (r"__shfl|__shfl_(?:up|down|xor)", "{0}, which CUDA has removed,", "{0}_sync with a mask"),
    (r"__any|__all|__ballot", "{0}, which CUDA has removed,", "{0}_sync with a mask"),
    (r"this_multi_grid|multi_grid_group", "{0}", "the mask of __ballot_sync"),
    (r"cuda(?:Malloc|Free|Memcpy|Memset)\w*", "{0} in a kernel", "memory that the host passes as an argument (--arg)"),
    (r"cudaDeviceSynchronize|cudaStream\w*|cudaEvent\w*|cudaLaunch\w*|cudaGetParameterBuffer\w*", "{0} in a kernel",
     "__syncthreads within a block, and a kernel of its own for what comes after"),
    (r"cuda[A-Z]\w*|cu[A-Z][a-z]\w*|cublas\w*|cusparse\w*|cufft\w*|cudnn\w*", "{0}, which belongs to the host,",
     "#ifndef MINILLM_SIMULATOR around it"),
    (r"__nv_fp8\w*|__nv_fp4\w*|__nv_cvt\w*|fp8\w*", "8-bit floating point", "__half or __nv_bfloat16"),
    (r"__v\w+[24]", "{0}", "a loop over the bytes, or __dp4a"),
    (r"__isConstant|__isLocal|__cvta_\w+", "{0}", "the pointer as it is"),
    (r"__prof_trigger|__brkpt|globaltimer", "{0}", "printf"),
    (r"__usleep|usleep|sleep", "{0}", "__nanosleep"),
)  # fmt: skip
HEADERS = {
    r"(?:__)?(?:half2?|nv_half2?)(?:_raw)?|__\w*half\w*|h2?(?:exp|log|sqrt|sin|cos|rsqrt|rcp)\w*|__h(?:add|sub|mul|fma|div|neg|abs|max|min)\w*":
        "cuda_fp16.h",
    r"(?:__)?nv_bfloat16\w*|__\w*bfloat16\w*": "cuda_bf16.h",
    r"cg|cooperative_groups|this_thread_block|tiled_partition|thread_block\w*|coalesced_\w+|this_grid": "cooperative_groups.h",
    r"CUDART_\w+": "math_constants.h",
    r"(?:U?INT(?:8|16|32|64|PTR)_MAX|INT(?:8|16|32|64)_MIN)": "stdint.h",
    r"FLT_\w+|DBL_\w+": "float.h",
    r"(?:U?(?:INT|LONG|LLONG|CHAR|SHRT)|S?CHAR)_(?:MAX|MIN)": "limits.h",
    r"M_(?:PI|E|SQRT)\w*": "math.h",
}  # fmt: skip
ERROR = re.compile(r"^(?P<file>.*?):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$", re.MULTILINE)
INLINE_PTX = (
    "Inline PTX with {0} cannot be simulated: put it behind #ifndef MINILLM_SIMULATOR, with C++ beside it "
    "(docs/simulator.md lists what can be)"
)
ENTRY = re.compile(r"<kernel (\d+)>")
PTX = re.compile(r"no such instruction|impossible constraint in .asm|invalid .asm|bad register|inconsistent operand")


def explain(
    log: str, file: str, source: str, entries: tuple[str, ...], kernels: list[KernelText], internal: str
) -> str:
    """One line for the log of a failed compilation.

    file: how the log names the source. entries: the kernels that were asked for, whose lines are
    `<kernel N>`. internal: the folder of the simulator's headers, where no error is the author's.
    """
    if PTX.search(log) or "Assembler messages" in log:
        return _ptx(file, source)
    found = next(iter(ERROR.finditer(log)), None)
    if found is None:
        return _of_the_linker(log, file)
    place, text = _place(found, log, file, internal)
    entry = ENTRY.search(place)
    if entry:
        return _kernel_not_found(entries[int(entry[1])], file, kernels)
    line = _line_text(place, file, source)
    return f"{place}: {_absent(text, line, source) or _in_plain_words(text)}"


def kernel_name_error(name: str, file: str, kernels: list[KernelText]) -> str | None:
    """What is wrong with the name of a kernel that was asked for, None if it can be had as far as
    the source shows it.
    """
    base = re.split(r"[<(\s]", name.strip().lstrip("&("))[0].split("::")[-1]
    same = [each for each in kernels if each.name.split("::")[-1] == base]
    if not same or name.strip().startswith("("):
        return None if not kernels or name.strip().startswith("(") else _misspelt(name, file, kernels)
    if all(each.template is not None and "<" not in name for each in same):
        return f'{file}: {base} is a template: name the instance, such as "{same[0].example}" ({same[0]})'
    if all(each.template is None for each in same) and "<" in name:
        return f'{file}: {base} is no template: name it "{same[0].name}"'
    if len(same) > 1 and "(" not in name and len({each.name for each in same}) == 1 and same[0].template is None:
        forms = " or ".join(f'"{each.name}({types_of(each)})"' for each in same)
        return f"{file}: there are {len(same)} kernels {base}: name one by its parameters, {forms}"
    if "::" not in name and "::" in same[0].name and not same[0].extern_c:
        return f'{file}: {base} is in a namespace: name it "{same[0].example}"'
    return None


def types_of(kernel: KernelText) -> str:
    """The types of a kernel's parameters, without their names."""
    parts = [part.partition("=")[0].strip() for part in split_list(kernel.parameters)]
    return ", ".join(
        re.sub(r"\s*\b(?!(?:int|float|double|char|long|short|bool|unsigned)$)\w+$", "", part) for part in parts
    )


def _misspelt(name: str, file: str, kernels: list[KernelText]) -> str:
    names = [each.example for each in kernels]
    close = difflib.get_close_matches(name, [*names, *(n.split("<")[0] for n in names)], n=1, cutoff=0.5)
    near = next((n for n in names if close and n.split("<")[0] == close[0].split("<")[0]), None)
    return f"{file} has no kernel {name}" + (f': did you mean "{near}"?' if near else f": it has {', '.join(names)}")


def _kernel_not_found(name: str, file: str, kernels: list[KernelText]) -> str:
    told = kernel_name_error(name, file, kernels)
    if told:
        return told
    there = f": it has {', '.join(each.example for each in kernels)}" if kernels else ""
    return f'{file}: "{name}" names no kernel of this file{there}'


def _place(found, log: str, file: str, internal: str) -> tuple[str, str]:
    """The line of the author's to which an error belongs, and the error's text."""
    at, text = found["file"], found["text"]
    if at.startswith((internal, "/usr/")) and not ENTRY.search(at):
        required = re.findall(r"^(.*?):(\d+):(?:\d+:)?\s+required from", log, flags=re.MULTILINE)
        own = [f"{path}:{line}" for path, line in required if not path.startswith((internal, "/usr/"))]
        inlined = re.findall(r"inlined from .* at (.*?):(\d+):\d+", log)
        own += [f"{path}:{line}" for path, line in inlined if not path.startswith((internal, "/usr/"))]
        if own:
            return own[-1] if required else own[0], text
    return f"{at}:{found['line']}", text


def _line_text(place: str, file: str, source: str) -> str:
    path, _, number = place.rpartition(":")
    lines = masked(source).split("\n")
    return lines[int(number) - 1] if path == file and number.isdigit() and 0 < int(number) <= len(lines) else ""


def _absent(text: str, line: str, source: str) -> str | None:
    """What is not in the simulator, if that is the error."""
    header = re.match(r"(.+): No such file or directory", text)
    if header:
        return _header(header[1])
    said = re.search(r"static assertion failed:? ?(.*)|declared with attribute error: (.*)", text)
    if said:
        return said[1] or said[2] or "a static_assert of the source does not hold"
    if re.search(r"\b(?:asm|__asm__)\b", line):
        return INLINE_PTX.format((unknown_instruction(source) or (0, "such operands"))[1])
    if "<<<" in line:
        return "launches from inside a kernel are not in the simulator; use a loop, or one kernel after the other"
    quoted = " ".join(re.findall(r"'([^']*)'", text.split("; did you mean")[0]))
    named = re.findall(r"\w+", quoted)
    missing = re.search(
        r"was not declared|has not been declared|does not name a type|not a namespace|is not a member|no matching function"
        r"|is not a class|no template named|expected|variable or field|incomplete type|not a template|has no member",
        text,
    )
    if not missing:
        return None
    for name in named + re.findall(r"\b(?:cuda[A-Z]\w*|__\w+|tex\w+|surf\w+|wmma|nvcuda|cub|thrust|curand\w*)\b", line):
        for pattern, what, instead in ABSENT:
            if re.fullmatch(pattern, name) and not (pattern.startswith("barrier") and "cuda" not in line):
                return _not_there(name, what, instead)
        if "no matching" in text:
            continue
        for pattern, header in HEADERS.items():
            if re.fullmatch(pattern, name) and header not in source:
                return f"{name} is in <{header}>, which has to be included"
        if name.startswith("__") and name in named:
            return f"{name} is not in the simulator (docs/simulator.md lists what is)"
    return None


def _not_there(name: str, what: str, instead: str) -> str:
    """what: the kind of thing that the name belongs to, or a text with the name in it."""
    subject = what.format(name) if "{0}" in what else name if name == what else f"{name} ({what})"
    return f"{subject} is not in the simulator; use {instead.format(name)}"


def _header(name: str) -> str:
    stem = re.split(r"[/.]", name)[0]
    for pattern, what, instead in ABSENT:
        if re.fullmatch(pattern, {"mma": "wmma", "curand_kernel": "curand"}.get(stem, stem)):
            return _not_there(f"<{name}>", what, instead)
    return f"there is no header \"{name}\": neither beside the file nor among the compiler's nor the simulator's"


def _in_plain_words(text: str) -> str:
    """g++'s words without the simulator's insides; the most frequent ones in plainer words."""
    hint = re.search(r"; did you mean '([^']*)'\?", text)
    meant = f"; did you mean {hint[1]}?" if hint and "minillm" not in hint[1] else ""
    undeclared = re.match(r"'([^']*)' (?:was not declared|has not been declared|does not name a type)", text)
    if undeclared:
        return f"{undeclared[1]} is not declared, neither in this file nor in the simulator{meant}"
    call = re.match(r"no matching function for call to '(?P<name>[^(]*)\((?P<types>.*)\)'", text)
    if call:
        other = "; for other types use atomicCAS in a loop, as on a GPU" if call["name"].startswith("atomic") else ""
        return f"there is no {call['name']} that takes ({_plain_types(call['types'])}){other}"
    if hint and "minillm" in hint[1]:
        text = text[: hint.start()]
    text = re.sub(r" \[with .*| \[-f?\w[\w-]*\]$", "", text)
    return f"{_plain_types(text)} (g++ does not accept the kernel)"


def _plain_types(text: str) -> str:
    text = text.replace("minillm_sim::Index3", "uint3")
    return re.sub(r"(?:const char\* (?:file|=)|minillm_sim::|, const char\*, int(?=\)))", "", text)


def _ptx(file: str, source: str) -> str:
    found = unknown_instruction(source)
    place = f"{file}:{line_of(source, found[0])}" if found else file
    return f"{place}: {INLINE_PTX.format(found[1] if found else 'an instruction that is not known')}"


def _of_the_linker(log: str, file: str) -> str:
    undefined = re.search(r"undefined reference to [`'](.*)'", log)
    if undefined:
        return f"{file}: {undefined[1]} is declared, but defined nowhere in this file"
    lines = [line for line in log.splitlines() if line.strip()]
    return f"{file}: g++ does not accept the kernel: {lines[0] if lines else 'it ended without a word'}"
