"""The loaded stand-ins for CUDA's libraries, and what their C code hands to Python."""

from __future__ import annotations

import ctypes


class Parameter(ctypes.Structure):
    """Where a kernel's parameter lies among its arguments, and its bytes (native/driver.c)."""

    _fields_ = [("offset", ctypes.c_uint), ("size", ctypes.c_uint)]


class Launch(ctypes.Structure):
    """A launch, as native/driver.c describes it. replayed: not 0 for a launch of a graph.
    cooperative: not 0 where a kernel may wait for the whole grid."""

    _fields_ = [
        ("module", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("parameters", ctypes.c_int),
        ("replayed", ctypes.c_int),
        ("cooperative", ctypes.c_int),
        ("parameter", ctypes.POINTER(Parameter)),
    ]


class Product(ctypes.Structure):
    """A product of matrices, as native/cublas.c describes it."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("c", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in "op_a op_b m n k lda ldb ldc a_type b_type c_type compute batch".split()),
        *((name, ctypes.c_int) for name in ("addresses", "device_scalars", "replayed")),
        *((name, ctypes.c_longlong) for name in ("step_a", "step_b", "step_c")),
        ("alpha", ctypes.c_uint8 * 16),
        ("beta", ctypes.c_uint8 * 16),
    ]


class Call(ctypes.Structure):
    """A call of another library's function, as native/calls.h describes it."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("count", ctypes.c_int),
        ("infos", ctypes.c_int),
        ("of_python", ctypes.c_int),
        ("device_scalars", ctypes.c_int),
        ("info", ctypes.c_void_p),
        ("seed", ctypes.c_ulonglong),
        ("offset", ctypes.c_ulonglong),
        ("slots", (ctypes.c_uint8 * 16) * 24),
    ]


LaunchHook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Launch))
ProductHook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Product))
CallHook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Call))
GraphHook = ctypes.CFUNCTYPE(None, ctypes.c_size_t)
ForgetHook = ctypes.CFUNCTYPE(None, ctypes.c_longlong)

cuda = cublas = None  # the stand-ins for libcuda and libcublas, set by attach.py


def set_hooks(launch=None, product=None, call=None, graph=None) -> None:
    """What is called for each launch, product, call of another library, and launch of a graph
    (before its nodes).

    The answer is the call's error code, 0 for success. The hooks have to live as long as the
    process.
    """
    cuda.standin_set_launch_hook(launch)
    cublas.standin_set_product_hook(product)
    cuda.standin_set_call_hook(call)
    cuda.standin_set_graph_hook(graph)
