"""The functions of cuBLAS, cuRAND and cuSOLVER that are handed to Python: their arguments, one
letter each, and the C of them.

    h  handle                                         i  int          l  long long, size_t       k  signed char
    p  address in device memory (or a list of them)   f  float        d  double
    a  number of the function's type, by address: the host's or the device's, as the pointer mode says;  A  its real type
    r  result of the function's type, by address, likewise;  R  of its real type;  j  an int
    w  workspace                                      q  settings
    o  devInfo, an int on the device, 0 for success;  O  as many as the batch, which is the last int
    n  info on the host, 0 for success                b  size of a workspace on the host, int;  B  size_t

In braces are the types: S float32, D float64, C complex64, Z complex128. Sources: the headers
cublas_api.h, curand.h, cusolverDn.h.
"""

from __future__ import annotations

import re
from typing import NamedTuple

CUBLAS = {
    "cublas{SDCZ}gemv_v2": "hiiiapipiapi",
    "cublas{SD}ger_v2": "hiiapipipi",
    "cublas{CZ}geru_v2": "hiiapipipi",
    "cublas{CZ}gerc_v2": "hiiapipipi",
    "cublas{SD}sbmv_v2": "hiiiapipiapi",
    "cublas{SDCZ}axpy_v2": "hiapipi",
    "cublas{SDCZ}scal_v2": "hiapi",
    "cublasCsscal_v2": "hiApi",
    "cublasZdscal_v2": "hiApi",
    "cublas{SD}dot_v2": "hipipir",
    "cublas{CZ}dotu_v2": "hipipir",
    "cublas{CZ}dotc_v2": "hipipir",
    "cublas{SD}nrm2_v2": "hipiR",
    "cublasScnrm2_v2": "hipiR",
    "cublasDznrm2_v2": "hipiR",
    "cublas{SD}asum_v2": "hipiR",
    "cublasScasum_v2": "hipiR",
    "cublasDzasum_v2": "hipiR",
    "cublasI{sdcz}amax_v2": "hipij",
    "cublasI{sdcz}amin_v2": "hipij",
    "cublas{SDCZ}geam": "hiiiiapiapipi",
    "cublas{SDCZ}dgmm": "hiiipipipi",
    "cublas{SDCZ}syrk_v2": "hiiiiapiapi",
    "cublas{SDCZ}trsm_v2": "hiiiiiiapipi",
    "cublas{SDCZ}trsmBatched": "hiiiiiiapipii",
    "cublas{SDCZ}getrfBatched": "hipipOi",
    "cublas{SDCZ}getriBatched": "hipippiOi",
    "cublas{SDCZ}getrsBatched": "hiiipippini",
    "cublas{SD}tpttr": "hiippi",
    "cublas{SD}trttp": "hiipip",
}
CURAND = {
    "curandGenerate": "hpl",
    "curandGenerateLongLong": "hpl",
    "curandGenerateUniform": "hpl",
    "curandGenerateUniformDouble": "hpl",
    "curandGenerateNormal": "hplff",
    "curandGenerateNormalDouble": "hpldd",
    "curandGenerateLogNormal": "hplff",
    "curandGenerateLogNormalDouble": "hpldd",
    "curandGeneratePoisson": "hpld",
}
CUSOLVER = {
    "cusolverDn{SDCZ}getrf_bufferSize": "hiipib",
    "cusolverDn{SDCZ}getrf": "hiipiwpo",
    "cusolverDn{SDCZ}getrs": "hiiipippio",
    "cusolverDn{SDCZ}potrf_bufferSize": "hiipib",
    "cusolverDn{SDCZ}potrf": "hiipiwio",
    "cusolverDn{SDCZ}potrs": "hiiipipio",
    "cusolverDn{SDCZ}potrfBatched": "hiipiOi",
    "cusolverDn{SDCZ}potrsBatched": "hiiipipioi",
    "cusolverDn{SDCZ}geqrf_bufferSize": "hiipib",
    "cusolverDn{SDCZ}geqrf": "hiipipwio",
    "cusolverDn{SD}orgqr_bufferSize": "hiiipipb",
    "cusolverDn{SD}orgqr": "hiiipipwio",
    "cusolverDn{CZ}ungqr_bufferSize": "hiiipipb",
    "cusolverDn{CZ}ungqr": "hiiipipwio",
    "cusolverDn{SD}ormqr_bufferSize": "hiiiiipippib",
    "cusolverDn{SD}ormqr": "hiiiiipippiwio",
    "cusolverDn{CZ}unmqr_bufferSize": "hiiiiipippib",
    "cusolverDn{CZ}unmqr": "hiiiiipippiwio",
    "cusolverDn{SDCZ}gesvd_bufferSize": "hiib",
    "cusolverDn{SDCZ}gesvd": "hkkiipippipiwiwo",
    "cusolverDn{SDCZ}gesvdj_bufferSize": "hiiiipippipibq",
    "cusolverDn{SDCZ}gesvdj": "hiiiipippipiwioq",
    "cusolverDn{SDCZ}gesvdjBatched_bufferSize": "hiiipippipibqi",
    "cusolverDn{SDCZ}gesvdjBatched": "hiiipippipiwiOqi",
    "cusolverDn{SD}syevd_bufferSize": "hiiipipb",
    "cusolverDn{SD}syevd": "hiiipipwio",
    "cusolverDn{CZ}heevd_bufferSize": "hiiipipb",
    "cusolverDn{CZ}heevd": "hiiipipwio",
    "cusolverDnXsyevd_bufferSize": "hqiiliplipiBB",
    "cusolverDnXsyevd": "hqiiliplipiwlwlo",
    "cusolverDnXgeev_bufferSize": "hqiiliplipiplipliBB",
    "cusolverDnXgeev": "hqiiliplipiplipliwlwlo",
    "cusolverDn{SD}syevj_bufferSize": "hiiipipbq",
    "cusolverDn{SD}syevj": "hiiipipwioq",
    "cusolverDn{CZ}heevj_bufferSize": "hiiipipbq",
    "cusolverDn{CZ}heevj": "hiiipipwioq",
    "cusolverDn{SD}syevjBatched_bufferSize": "hiiipipbqi",
    "cusolverDn{SD}syevjBatched": "hiiipipwiOqi",
    "cusolverDn{CZ}heevjBatched_bufferSize": "hiiipipbqi",
    "cusolverDn{CZ}heevjBatched": "hiiipipwiOqi",
}


class Function(NamedTuple):
    """A function of a library.

    letters: its arguments. type: S, D, C or Z, or "" for a function of no type.
    """

    name: str
    letters: str
    type: str


def functions(table: dict[str, str]) -> dict[str, Function]:
    """The functions of CUBLAS, CURAND or CUSOLVER, the types in braces written out."""
    found = {}
    for pattern, letters in table.items():
        types = re.search(r"\{(\w+)\}", pattern)
        for letter in types[1] if types else [_type_in(pattern)]:
            name = pattern.replace(types[0], letter) if types else pattern
            found[name] = Function(name, letters, letter.upper())
    return found


def _type_in(name: str) -> str:
    """The type of a function without braces in its pattern: the first of the two in cublasCsscal,
    cublasDznrm2.
    """
    if name.startswith("cublas"):
        return {"Sc": "C", "Dz": "Z"}.get(name[6:8], name[6])
    return ""


_C_TYPES = {"h": "Handle*", "i": "int", "l": "long long", "k": "signed char", "f": "float", "d": "double"}
_SIZES = {"S": 4, "D": 8, "C": 8, "Z": 16, "": 0}
_VALUES = {"i": ".integer = {}", "l": ".integer = {}", "k": ".integer = {}", "f": ".real = {}", "d": ".real = {}"}


def c_code(function: Function, fails_with: int) -> str:
    """The C function: its arguments become a Call (native/calls.h).

    fails_with: the library's code for a failed call.
    """
    letters = function.letters
    parameters = ", ".join(f"{_C_TYPES.get(letter, 'void*')} a{i}" for i, letter in enumerate(letters))
    if {"b", "B"} & set(letters):  # a workspace that is not needed: LAPACK has its own
        sizes = "".join(
            f"*({'int' if letter == 'b' else 'size_t'}*)a{i} = 1; "
            for i, letter in enumerate(letters)
            if letter in "bB"
        )
        unused = "".join(f"(void)a{i}; " for i, letter in enumerate(letters) if letter not in "bB")
        return f"int {function.name}({parameters}) {{ {unused}{sizes}return 0; }}\n"
    slots = ", ".join(filter(None, (_slot(letter, i, function.type) for i, letter in enumerate(letters))))
    info = max(letters.find("o"), letters.find("O"))
    last = len(letters) - 1
    infos = f", .info = (int*)a{info}, .infos = {f'a{last}' if letters[info] == 'O' else 1}" if info >= 0 else ""
    waits = "a0->pointer_mode == POINTER_MODE_HOST" if {"r", "R", "j"} & set(letters) else "0"
    after = ""
    if {"a", "A"} & set(letters):
        infos += ", .device_scalars = a0->pointer_mode == POINTER_MODE_DEVICE"
    if function.name.startswith("curand"):
        infos += ", .seed = a0->seed, .offset = a0->offset"
        after = "a0->offset += (unsigned long long)a2; "
    host_info = "".join(f"*(int*)a{i} = 0; " for i, letter in enumerate(letters) if letter == "n")
    unused = "".join(f"(void)a{i}; " for i, letter in enumerate(letters) if letter in "wq")
    return (
        f"int {function.name}({parameters}) {{\n"
        f'    const Call call = {{"{function.name}", .count = {len(slots_of(letters))}{infos}, .slots = {{{slots}}}}};\n'
        f"    {unused}{host_info}{after}return standin_call(a0, &call, {waits}) ? {fails_with} : 0;\n}}\n"
    )


def slots_of(letters: str) -> str:
    """The letters of the arguments that a Call keeps."""
    return "".join(letter for letter in letters if letter not in "hwqn")


def _slot(letter: str, index: int, of_type: str) -> str:
    if letter in "hwqn":
        return ""
    if letter in "aA":
        size = _SIZES[of_type] // (2 if letter == "A" else 1)
        return f"standin_number(a0, a{index}, {size})"
    return "{" + _VALUES.get(letter, ".address = (void*){}").format(f"a{index}") + "}"
