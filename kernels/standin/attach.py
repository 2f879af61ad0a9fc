"""Puts the stand-in in the place of the GPU, for this process: `attach()`, before CuPy is imported.

CuPy reaches a GPU by three ways. Two are shared libraries, libcuda.so.1 and libcublas.so.13: ours are loaded first, under the
same names, and the dynamic linker keeps to them. The third is CUDA's runtime, which the wheel has linked into its module
`runtime`: there the first bytes of each function are overwritten with a jump to ours.
"""

from __future__ import annotations

import ctypes
import os
import sys

from minillm.kernels.standin.build import Unsupported, build, cache_folder, cupy_library, symbols

# What CuPy 14.2 calls of CUDA's runtime. Ours are in native/cuda.c; those that are not there fail and say so.
RUNTIME_FUNCTIONS = """
    cudaCreateSurfaceObject cudaCreateTextureObject cudaDestroySurfaceObject cudaDestroyTextureObject
    cudaDeviceCanAccessPeer cudaDeviceDisablePeerAccess cudaDeviceEnablePeerAccess cudaDeviceGetAttribute
    cudaDeviceGetByPCIBusId cudaDeviceGetDefaultMemPool cudaDeviceGetLimit cudaDeviceGetMemPool cudaDeviceGetPCIBusId
    cudaDeviceSetLimit cudaDeviceSetMemPool cudaDeviceSynchronize cudaDriverGetVersion
    cudaEventCreate cudaEventCreateWithFlags cudaEventDestroy cudaEventElapsedTime cudaEventQuery cudaEventRecord
    cudaEventSynchronize cudaFree cudaFreeArray cudaFreeAsync cudaFreeHost
    cudaGetChannelDesc cudaGetDevice cudaGetDeviceCount cudaGetDeviceProperties cudaGetErrorName cudaGetErrorString
    cudaGetLastError cudaGetTextureObjectResourceDesc
    cudaGraphDebugDotPrint cudaGraphDestroy cudaGraphExecDestroy cudaGraphInstantiate cudaGraphLaunch cudaGraphUpload
    cudaHostAlloc cudaHostRegister cudaHostUnregister
    cudaIpcCloseMemHandle cudaIpcGetEventHandle cudaIpcGetMemHandle cudaIpcOpenEventHandle cudaIpcOpenMemHandle
    cudaLaunchHostFunc cudaMalloc cudaMalloc3DArray cudaMallocArray cudaMallocAsync cudaMallocFromPoolAsync
    cudaMallocManaged cudaMemAdvise cudaMemGetInfo
    cudaMemPoolCreate cudaMemPoolDestroy cudaMemPoolGetAttribute cudaMemPoolSetAttribute cudaMemPoolTrimTo
    cudaMemPrefetchAsync cudaMemcpy cudaMemcpy2D cudaMemcpy2DAsync cudaMemcpy2DFromArray cudaMemcpy2DFromArrayAsync
    cudaMemcpy2DToArray cudaMemcpy2DToArrayAsync cudaMemcpy3D cudaMemcpy3DAsync cudaMemcpyAsync cudaMemcpyPeer
    cudaMemcpyPeerAsync cudaMemset cudaMemsetAsync cudaPointerGetAttributes cudaProfilerStart cudaProfilerStop
    cudaRuntimeGetVersion cudaSetDevice cudaStreamAddCallback cudaStreamBeginCapture cudaStreamCreate
    cudaStreamCreateWithFlags cudaStreamCreateWithPriority cudaStreamDestroy cudaStreamEndCapture cudaStreamGetFlags
    cudaStreamGetPriority cudaStreamIsCapturing cudaStreamQuery cudaStreamSynchronize cudaStreamWaitEvent
""".split()
PAGE = 4096
READ_WRITE_EXECUTE = 7
UNKNOWN_ERROR = 999  # cudaErrorUnknown


class Launch(ctypes.Structure):
    """A launch, as native/cuda.c describes it."""

    _fields_ = [
        ("module", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
    ]


class Product(ctypes.Structure):
    """A product of matrices, as native/cublas.c describes it."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("c", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in "op_a op_b m n k lda ldb ldc a_type b_type c_type compute batch".split()),
        ("addresses", ctypes.c_int),
        *((name, ctypes.c_longlong) for name in ("step_a", "step_b", "step_c")),
        ("alpha", ctypes.c_double),
        ("beta", ctypes.c_double),
    ]


LaunchHook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Launch))
ProductHook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Product))

cuda = cublas = None  # the loaded libraries
_kept = []  # what C code uses for as long as the process lives


def attach() -> None:
    """From here on, CuPy finds a GPU of compute capability 9.0 with 80 GiB. Raises Unsupported where that cannot be done."""
    global cuda, cublas
    if cuda is not None:
        return
    if "cupy" in sys.modules:
        raise Unsupported("attach the stand-in before CuPy is imported")
    os.environ.setdefault("CUPY_CACHE_DIR", str(cache_folder() / "cupy"))
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's compiled kernels bring a runtime of their own
    libraries = build()
    cuda, cublas, _ = (ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for path in libraries.values())
    _replace_runtime()
    _replace_thrust()


def attach_as_told() -> None:
    """Attach the stand-in as GPU_STANDIN_CAPABILITY ("8.6") and GPU_STANDIN_COMPUTE say."""
    attach()
    set_capability(*map(int, os.environ.get("GPU_STANDIN_CAPABILITY", "9.0").split(".")))
    if os.environ.get("GPU_STANDIN_COMPUTE"):
        from minillm.kernels.standin.computing import carry_out_everything

        carry_out_everything()


def set_capability(major: int, minor: int) -> None:
    """The compute capability of the GPU from here on; before CuPy has asked for it."""
    cuda.standin_set_capability(major, minor)


def set_hooks(launch: LaunchHook | None, product: ProductHook | None) -> None:
    """What is called for each launch and each product; the answer is the call's error code, 0 for success. The hooks have to
    live as long as the process."""
    cuda.standin_set_launch_hook(launch)
    cublas.standin_set_product_hook(product)


def _replace_runtime() -> None:
    library = cupy_library("cupy_backends.cuda.api", "runtime")
    _kept.append(ctypes.CDLL(str(library)))  # into memory: Python's import finds it there
    start, addresses = _loaded_at(str(library)), symbols(library)
    missing = [name for name in RUNTIME_FUNCTIONS if name not in addresses]
    if missing:
        raise Unsupported(f"{library} has no {', '.join(missing)}: another CuPy than the stand-in is made for")
    for name in RUNTIME_FUNCTIONS:
        _jump(start + addresses[name], _ours(name))


def _ours(name: str) -> int:
    """The address of our function in the place of a function of CUDA's runtime."""
    try:
        function = getattr(cuda, f"standin_{name}")
    except AttributeError:
        function = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: _refuse(name))
        _kept.append(function)
    return ctypes.cast(function, ctypes.c_void_p).value


def _refuse(name: str) -> int:
    print(f"stand-in: {name} is not there", file=sys.stderr)
    return UNKNOWN_ERROR


def _loaded_at(path: str) -> int:
    """Where a library begins in memory."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            span, _, offset, _, _, *file = line.split(maxsplit=5)
            if file and file[0].strip() == path and int(offset, 16) == 0:
                return int(span.partition("-")[0], 16)
    raise Unsupported(f"{path} is not in memory although it was loaded")


def _jump(address: int, target: int) -> None:
    """Overwrites the start of a function: mov rax, target; jmp rax."""
    code = b"\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0"
    libc = ctypes.CDLL(None, use_errno=True)
    page = address // PAGE * PAGE
    if libc.mprotect(ctypes.c_void_p(page), 2 * PAGE, READ_WRITE_EXECUTE):
        raise Unsupported(f"the code of CUDA's runtime cannot be replaced here: {os.strerror(ctypes.get_errno())}")
    ctypes.memmove(address, code, len(code))


def _replace_thrust() -> None:
    """Sorting is Thrust's, compiled into the wheel with a runtime of its own: ours is in thrust.py."""
    import cupy
    import cupy._core._routines_sorting as routines

    from minillm.kernels.standin import thrust

    sys.modules["cupy.cuda.thrust"] = cupy.cuda.thrust = routines.thrust = thrust
