"""Overwrites the start of a function in memory with a jump to another one.

x86-64    mov rax, target; jmp rax          rax is free at the start of a function
aarch64   ldr x16, target; br x16           x16 and x17 are for such veneers (AAPCS64)
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform

from minillm.errors import UserError

_READ_EXECUTE, _ALL = 5, 7  # of mprotect


def machine_code(target: int, machine: str) -> bytes:
    """The jump, for a machine as platform.machine() names it.

    Raises UserError for one that is not known.
    """
    address = target.to_bytes(8, "little")
    if machine in ("x86_64", "AMD64"):
        return b"\x48\xb8" + address + b"\xff\xe0"
    if machine in ("aarch64", "arm64"):
        return b"\x50\x00\x00\x58" + b"\x00\x02\x1f\xd6" + address  # the address lies behind both instructions
    raise UserError(f"the stand-in for a GPU runs on x86-64 and arm64, this is {machine}: use device cudasim instead")


class Jumps:
    """Jumps written into the code of one library.

    The pages are writable within the `with` block only. Raises UserError where the kernel forbids
    that (SELinux's execmod, grsecurity).
    """

    def __init__(self, first: int, last: int):
        """first, last: the lowest and the highest address at which a function is replaced."""
        page = mmap.PAGESIZE
        self._start = first // page * page
        self._size = (last + page) // page * page + page - self._start
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._written: list[tuple[int, int]] = []

    def __enter__(self) -> Jumps:
        self._protect(_ALL)
        return self

    def __exit__(self, *_) -> None:
        self._protect(_READ_EXECUTE)
        for address, size in self._written:
            _flush(address, size)

    def write(self, address: int, target: int) -> None:
        """The function at `address` is `target` from here on."""
        code = machine_code(target, platform.machine())
        ctypes.memmove(address, code, len(code))
        self._written.append((address, len(code)))

    def _protect(self, how: int) -> None:
        if self._libc.mprotect(ctypes.c_void_p(self._start), ctypes.c_size_t(self._size), how):
            why = os.strerror(ctypes.get_errno())
            raise UserError(
                f"the code of CUDA's runtime cannot be replaced in memory: mprotect: {why}. The kernel of this machine "
                "forbids programs to change their code (SELinux, grsecurity): run in a container or another machine"
            )


def _flush(address: int, size: int) -> None:
    """Forgets instructions that were fetched before: libgcc_s has the function. x86-64 sees to it
    itself.
    """
    if platform.machine() in ("aarch64", "arm64"):
        ctypes.CDLL("libgcc_s.so.1").__clear_cache(ctypes.c_void_p(address), ctypes.c_void_p(address + size))
