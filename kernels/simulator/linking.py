"""How a kernel's object file is linked: the C library's functions that the simulator answers itself
(calls.cpp).
"""

from __future__ import annotations

from pathlib import Path

from minillm.kernels.simulator.elf import section_names

VARIABLE_GAP = 4096  # bytes between two variables of a module: a pointer that strays from one does not find the other
SHARED_GAP = 1024  # between shared arrays; a multiple of 128, so that each keeps its banks

ENDING = ("abort", "exit", "_exit", "_Exit", "quick_exit", "raise", "__assert_fail", "__stack_chk_fail")
EXCEPTIONS = ("__cxa_allocate_exception", "__cxa_throw", "__cxa_rethrow", "__cxa_pure_virtual", "_ZSt9terminatev")
MEMORY = ("memcpy", "memmove", "memset", "memcmp", "printf", "vprintf", "malloc", "calloc", "free")
OPERATORS = ("_Znwm", "_Znam", "_ZdlPv", "_ZdaPv", "_ZdlPvm", "_ZdaPvm")  # new, new[], delete, delete[]
SHARED_MEMORY = ("__tls_get_addr",)
WRAPPED = (*ENDING, *EXCEPTIONS, *MEMORY, *OPERATORS, *SHARED_MEMORY)
LINK_FLAGS = ("-Wl,-z,now", "-Wl,-z,relro", *(f"-Wl,--wrap={name}" for name in WRAPPED))


def variables_apart(object_file: Path) -> str:
    """A linker's script that lays the variables of an object file out with gaps between them
    (-fdata-sections).

    Empty if there are none.
    """
    names = section_names(object_file)
    layout = []
    for kind in (".data", ".bss"):
        own = [name for name in names if name.startswith(f"{kind}.") and not name.startswith(".data.rel.ro")]
        apart = "".join(f" *({name}) . += {VARIABLE_GAP};" for name in own)
        if apart:
            layout.append(f"SECTIONS {{ .minillm{kind} : {{ . += {VARIABLE_GAP};{apart} }} }} INSERT AFTER {kind};\n")
    return "".join(layout)
