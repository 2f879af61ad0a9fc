"""What a launch is to the runtime: the C++ structs of launch.h, map.h and profile.h, field by
field.
"""

from __future__ import annotations

import ctypes


class Finding(ctypes.Structure):
    """Something wrong, as launch.h describes it."""

    _fields_ = [
        ("text", ctypes.c_char * 400),
        ("file", ctypes.c_char_p),
        ("line", ctypes.c_int),
        ("block", ctypes.c_uint * 3),
        ("thread", ctypes.c_uint * 3),
        ("pc", ctypes.c_uint64),
        ("other_pc", ctypes.c_uint64),
        ("other_thread", ctypes.c_uint),
        ("other_block", ctypes.c_int),
        ("times", ctypes.c_ulonglong),
        ("callers", ctypes.c_uint64 * 4),
    ]


class Region(ctypes.Structure):
    """Memory that a kernel may touch, as map.h describes it."""

    ARGUMENT, VARIABLE, CONSTANTS = range(3)
    _fields_ = [
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("gap", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("element", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("writable", ctypes.c_int),
        ("slack", ctypes.c_int),
        ("unwritten", ctypes.c_int),
    ]


class SharedArray(ctypes.Structure):
    """A static shared array, as launch.h describes it."""

    _fields_ = [("offset", ctypes.c_uint64), ("size", ctypes.c_uint64), ("name", ctypes.c_char_p)]


class ProfileRecord(ctypes.Structure):
    """The accesses of one instruction, as profile.h describes it."""

    _fields_ = [
        ("pc", ctypes.c_uint64),
        ("shared", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("instructions", ctypes.c_ulonglong),
        ("bytes", ctypes.c_ulonglong),
        ("actual", ctypes.c_ulonglong),
        ("ideal", ctypes.c_ulonglong),
    ]


class WarpAccess(ctypes.Structure):
    """The first execution of an instruction by a warp of the watched block: see profile.h."""

    _fields_ = [
        ("pc", ctypes.c_uint64),
        ("kind", ctypes.c_int),
        ("size", ctypes.c_int),
        ("warp", ctypes.c_int),
        ("lanes", ctypes.c_uint32),
        ("ever", ctypes.c_uint32),
        ("times", ctypes.c_ulonglong),
        ("actual", ctypes.c_ulonglong),
        ("ideal", ctypes.c_ulonglong),
        ("shared", ctypes.c_int),
        ("start", ctypes.c_uint64 * 32),
        ("address", ctypes.c_uint64 * 32),
    ]


class Launch(ctypes.Structure):
    """A launch, as launch.h describes it."""

    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("shared_anchor", ctypes.c_void_p),
        ("shared_offset", ctypes.c_uint64),
        ("shared_size", ctypes.c_uint64),
        ("dynamic_reserve", ctypes.c_uint64),
        ("dynamic_bytes", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("mode", ctypes.c_int),
        ("order", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("portable_fibers", ctypes.c_int),
        ("cooperative", ctypes.c_int),
        ("regions", ctypes.POINTER(Region)),
        ("region_count", ctypes.c_int),
        ("max_findings", ctypes.c_int),
        ("found", ctypes.c_int),
        ("findings", ctypes.POINTER(Finding)),
        ("flags", ctypes.POINTER(ctypes.c_uint64)),
        ("flag_count", ctypes.c_int),
        ("shared_arrays", ctypes.POINTER(SharedArray)),
        ("shared_array_count", ctypes.c_int),
        ("profile", ctypes.POINTER(ProfileRecord)),
        ("max_profiled", ctypes.c_int),
        ("profiled", ctypes.c_int),
        ("watched_block", ctypes.c_ulonglong),
        ("watched_accesses", ctypes.POINTER(WarpAccess)),
        ("max_watched", ctypes.c_int),
        ("watched", ctypes.c_int),
        ("library", ctypes.c_uint64),
        ("text", ctypes.c_uint64),
        ("text_size", ctypes.c_uint64),
        ("raised", ctypes.c_void_p * 3),
        ("exhausted", ctypes.c_int),
        ("seconds", ctypes.c_double),
        ("traced", ctypes.c_uint64),
        ("traced_pc", ctypes.c_uint64),
        ("traced_block", ctypes.c_uint * 3),
        ("traced_thread", ctypes.c_uint * 3),
    ]
