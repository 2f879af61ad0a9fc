"""How a kernel's object file is linked: the C library's functions that the simulator answers itself (calls.cpp)."""

from __future__ import annotations

ENDING = ("abort", "exit", "_exit", "_Exit", "quick_exit", "raise", "__assert_fail", "__stack_chk_fail")
EXCEPTIONS = ("__cxa_throw", "__cxa_rethrow", "__cxa_pure_virtual", "_ZSt9terminatev")
MEMORY = ("memcpy", "memmove", "memset", "memcmp", "printf", "vprintf", "malloc", "calloc", "free")
OPERATORS = ("_Znwm", "_Znam", "_ZdlPv", "_ZdaPv", "_ZdlPvm", "_ZdaPvm")  # new, new[], delete, delete[]
SHARED_MEMORY = ("__tls_get_addr",)
WRAPPED = (*ENDING, *EXCEPTIONS, *MEMORY, *OPERATORS, *SHARED_MEMORY)
LINK_FLAGS = ("-Wl,-z,now", *(f"-Wl,--wrap={name}" for name in WRAPPED))
