"""Calls of the libraries beside CUDA's runtime: cuBLAS (blas.py), cuRAND (random.py), cuSOLVER
(solver.py), Thrust.

Their arguments come as native/calls.h has them; signatures.py says what each is.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Callable
from functools import cache

from minillm.kernels.standin import libraries, recording, signatures

UNKNOWN, NOT_SUPPORTED = 999, 801
_HANDLE_BYTES = 32  # of native/calls.h's Handle: stream, two modes, seed, offset


def submit(name: str, shape: tuple[int, ...], work: Callable[[], None]) -> None:
    """Gives work of Python's to CuPy's current stream: it is done now, or by each launch of a graph
    that is captured.

    Raises CuPy's CUDARuntimeError where the stream does not take it.
    """
    import cupy

    stream, number = cupy.cuda.get_current_stream(), next(_numbers)
    _submitted[number] = (shape, work)
    handle = ctypes.create_string_buffer(struct.pack("<Q", stream.ptr), _HANDLE_BYTES)
    call = libraries.Call(_names.setdefault(name, name.encode()), 1, of_python=1)
    ctypes.memmove(call.slots, struct.pack("<q", number), 8)
    code = libraries.cuda.standin_call(handle, ctypes.byref(call), 0)
    if code:
        del _submitted[number]
        raise cupy.cuda.runtime.CUDARuntimeError(code)
    if not stream.is_capturing():
        del _submitted[number]


_numbers = itertools.count()
_submitted: dict[int, tuple[tuple[int, ...], Callable[[], None]]] = {}  # what graphs may ask for again is kept
_names: dict[str, bytes] = {}


def _forget(number: int) -> None:
    """No graph asks for this work any more."""
    _submitted.pop(number, None)


FORGET_HOOK = libraries.ForgetHook(_forget)


def _called(pointer) -> int:
    call = pointer.contents
    name = call.name.decode()
    try:
        if name.startswith("thrust"):
            shape, work = _submitted[struct.unpack_from("<q", call.slots[0])[0]]
            recording.note_call(name, shape)
            work()
        else:
            recording.note_call(name)
            if recording.computes():
                _carry_out(name, call)
    except KeyboardInterrupt:
        recording.interrupt_after_hook()
    except NotImplementedError as error:
        return _failed(name, error, NOT_SUPPORTED)
    except Exception as error:  # C code is above, which an exception of Python cannot cross
        return _failed(name, error, UNKNOWN)
    return 0


def _failed(name: str, error: Exception, code: int) -> int:
    text = f"{name}: {type(error).__name__}: {error}".encode()
    libraries.cuda.standin_set_reason(text)
    libraries.cuda.standin_unable(code, name.encode(), str(error).encode())
    return code


HOOK = libraries.CallHook(_called)


def _carry_out(name: str, call) -> None:
    function = _functions()[name]
    arguments = [
        _decoded(letter, bytes(slot)) for letter, slot in zip(signatures.slots_of(function.letters), call.slots)
    ]
    _module(name).carry_out(function, arguments, call)


@cache
def _functions() -> dict[str, signatures.Function]:
    tables = signatures.CUBLAS, signatures.CURAND, signatures.CUSOLVER
    return {name: function for table in tables for name, function in signatures.functions(table).items()}


def _module(name: str):
    from minillm.kernels.standin import blas, random, solver

    return blas if name.startswith("cublas") else random if name.startswith("curand") else solver


def _decoded(letter: str, slot: bytes):
    """An argument: an int, a float, an address, or the slot itself for a number by its address."""
    if letter in "fd":
        return struct.unpack_from("<d", slot)[0]
    if letter in "aA":
        return slot
    return struct.unpack_from("<q", slot)[0]
