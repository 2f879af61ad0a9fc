"""cuSOLVER's dense functions, by LAPACK on the same memory: factorisations, systems, singular and
eigenvalues.

Values agree with a GPU's up to rounding; signs of singular vectors and eigenvectors need not.
"""

from __future__ import annotations

import re

import numpy as np

from minillm.kernels.standin import lapack
from minillm.kernels.standin.blas import DTYPES
from minillm.kernels.standin.memory import array, cuda_dtype, matrix, pointer_at
from minillm.kernels.standin.signatures import Function

_UPLO, _OPERATIONS, _SIDES = "LU", "NTC", "LR"  # cublasFillMode_t, cublasOperation_t, cublasSideMode_t
_VECTORS = 1  # cusolverEigMode_t


def carry_out(function: Function, arguments: list, call) -> None:
    """A call of a function in signatures.CUSOLVER.

    Raises NotImplementedError for one that is not here.
    """
    name = re.sub(r"^cusolverDn[SDCZ]?", "", function.name)
    _ROUTINES[name](DTYPES.get(function.type), *arguments)


def _matrix(address: int, dtype: np.dtype, rows: int, columns: int, step: int) -> np.ndarray:
    """A matrix (rows, columns) by columns."""
    return matrix(address, dtype, rows, columns, step).T


def _set(address: int, value: int, index: int = 0) -> None:
    """devInfo, or that of one matrix of a batch."""
    array(address + 4 * index, np.int32, (1,))[0] = value


def _real(dtype: np.dtype) -> np.dtype:
    return np.zeros(0, dtype).real.dtype


# ----------------------------------------------------------------------------------- factorisations


def _getrf(dtype, m, n, a, lda, pivots, info):
    a = _matrix(a, dtype, m, n, lda)
    rows = array(pivots, np.int32, (min(m, n),)) if pivots else np.zeros(min(m, n), np.int32)
    _set(info, lapack.getrf(a, rows))


def _getrs(dtype, operation, n, columns, a, lda, pivots, b, ldb, info):
    factors, b = _matrix(a, dtype, n, n, lda), _matrix(b, dtype, n, columns, ldb)
    rows = array(pivots, np.int32, (n,)) if pivots else np.arange(1, n + 1, dtype=np.int32)
    _set(info, lapack.getrs(factors, rows, b, operation))


def _potrf(dtype, uplo, n, a, lda, lwork, info):
    a = _matrix(a, dtype, n, n, lda)
    _set(info, lapack.run("potrf", dtype, _UPLO[uplo], n, a, lapack.step(a)))


def _potrs(dtype, uplo, n, columns, a, lda, b, ldb, info):
    a, b = _matrix(a, dtype, n, n, lda), _matrix(b, dtype, n, columns, ldb)
    _set(info, lapack.run("potrs", dtype, _UPLO[uplo], n, columns, a, lapack.step(a), b, lapack.step(b)))


def _potrf_batched(dtype, uplo, n, a, lda, info, batch):
    for i in range(batch):
        _potrf(dtype, uplo, n, pointer_at(a, i), lda, 0, info + 4 * i)


def _potrs_batched(dtype, uplo, n, columns, a, lda, b, ldb, info, batch):
    for i in range(batch):
        _potrs(dtype, uplo, n, columns, pointer_at(a, i), lda, pointer_at(b, i), ldb, info)


def _geqrf(dtype, m, n, a, lda, tau, lwork, info):
    a = _matrix(a, dtype, m, n, lda)
    _set(info, lapack.with_workspace("geqrf", dtype, m, n, a, lapack.step(a), array(tau, dtype, (min(m, n),))))


def _orgqr(dtype, m, n, k, a, lda, tau, lwork, info):
    a, name = _matrix(a, dtype, m, n, lda), "ungqr" if dtype.kind == "c" else "orgqr"
    _set(info, lapack.with_workspace(name, dtype, m, n, k, a, lapack.step(a), array(tau, dtype, (k,))))


def _ormqr(dtype, side, operation, m, n, k, a, lda, tau, c, ldc, lwork, info):
    name = "unmqr" if dtype.kind == "c" else "ormqr"
    a, c = _matrix(a, dtype, m if _SIDES[side] == "L" else n, k, lda), _matrix(c, dtype, m, n, ldc)
    reflectors = (a, lapack.step(a), array(tau, dtype, (k,)))
    letters = _SIDES[side], _OPERATIONS[operation]
    _set(info, lapack.with_workspace(name, dtype, *letters, m, n, k, *reflectors, c, lapack.step(c)))


# ------------------------------------------------------------------------------------ singular values


def _gesvd(dtype, job_u, job_vt, m, n, a, lda, s, u, ldu, vt, ldvt, lwork, info):
    """A = U diag(s) V^H.

    job_u, job_vt: letters as LAPACK's, A all, S the first min(m, n), O over A, N none.
    """
    code = _svd(dtype, chr(job_u), chr(job_vt), _matrix(a, dtype, m, n, lda), s, (u, ldu), (vt, ldvt))
    _set(info, code)


def _svd(dtype, job_u: str, job_vt: str, a: np.ndarray, s: int, u: tuple[int, int], vt: tuple[int, int]) -> int:
    m, n = a.shape
    k = min(m, n)
    columns, rows = {"A": m, "S": k}.get(job_u, 0), {"A": n, "S": k}.get(job_vt, 0)
    u = _matrix(u[0], dtype, m, columns, u[1]) if columns else np.zeros((1, 1), dtype)
    vt = _matrix(vt[0], dtype, rows, n, vt[1]) if rows else np.zeros((1, 1), dtype)
    found = (array(s, _real(dtype), (k,)), u, lapack.step(u), vt, lapack.step(vt))
    if dtype.kind != "c":
        return lapack.with_workspace("gesvd", dtype, job_u, job_vt, m, n, a, lapack.step(a), *found)
    work, rwork = np.zeros(2 * k + max(m, n) + 64 * k + 1, dtype), np.zeros(5 * k + 1, _real(dtype))
    return lapack.run("gesvd", dtype, job_u, job_vt, m, n, a, lapack.step(a), *found, work, work.size, rwork)


def _gesvdj(dtype, vectors, econ, m, n, a, lda, s, u, ldu, v, ldv, lwork, info):
    """The same with V in the place of V^H, by Jacobi's method on a GPU."""
    a, k = _matrix(a, dtype, m, n, lda), min(m, n)
    if vectors != _VECTORS:
        _set(info, _svd(dtype, "N", "N", a, s, (0, 1), (0, 1)))
        return
    job, rows = ("S", k) if econ else ("A", n)
    vh = np.zeros((rows, n), dtype, order="F")
    _set(info, _svd(dtype, job, job, a, s, (u, ldu), (vh.ctypes.data, rows)))
    _matrix(v, dtype, n, rows, ldv)[...] = vh.conj().T


def _gesvdj_batched(dtype, vectors, m, n, a, lda, s, u, ldu, v, ldv, lwork, info, batch):
    size, real = dtype.itemsize, _real(dtype).itemsize
    for i in range(batch):
        places = (
            a + i * lda * n * size,
            lda,
            s + i * min(m, n) * real,
            u + i * ldu * m * size,
            ldu,
            v + i * ldv * n * size,
            ldv,
        )
        _gesvdj(dtype, vectors, 0, m, n, *places, lwork, info + 4 * i)


# ----------------------------------------------------------------------------------------- eigenvalues


def _syevd(dtype, vectors, uplo, n, a, lda, w, lwork, info):
    """A = V diag(w) V^H of a symmetric or Hermitian A, w ascending; V is written over A."""
    a, job = _matrix(a, dtype, n, n, lda), "V" if vectors == _VECTORS else "N"
    values = array(w, _real(dtype), (n,))
    name, integers = ("heevd" if dtype.kind == "c" else "syevd"), np.zeros(5 * n + 10, lapack.integers())
    size = 2 * n * n + 8 * n + 10
    work, real = np.zeros(size, dtype), np.zeros(size, _real(dtype))
    workspaces = (work, size, real, size) if dtype.kind == "c" else (work, size)
    _set(
        info,
        lapack.run(name, dtype, job, _UPLO[uplo], n, a, lapack.step(a), values, *workspaces, integers, integers.size),
    )


def _syevj_batched(dtype, vectors, uplo, n, a, lda, w, lwork, info, batch):
    for i in range(batch):
        matrix_i, values = a + i * lda * n * dtype.itemsize, w + i * n * _real(dtype).itemsize
        _syevd(dtype, vectors, uplo, n, matrix_i, lda, values, lwork, info + 4 * i)


def _xsyevd(_, vectors, uplo, n, a_type, a, lda, w_type, w, compute, lwork, host_lwork, info):
    _syevd(cuda_dtype(a_type), vectors, uplo, n, a, lda, w, lwork, info)


def _xgeev(_, left, right, n, a_type, a, lda, w_type, w, vl_type, vl, ldvl, vr_type, vr, ldvr, compute, *rest):
    """A V = V diag(w) of any A, w complex.

    For a real A the columns of V are real: the real part, then the imaginary part, of a conjugate
    pair, as LAPACK's geev has them.
    """
    if left == _VECTORS:
        raise NotImplementedError("cusolverDnXgeev: left eigenvectors are not there")
    dtype = cuda_dtype(a_type)
    values, vectors = np.linalg.eig(_matrix(a, dtype, n, n, lda))
    array(w, cuda_dtype(w_type), (n,))[...] = values
    if right == _VECTORS:
        out, i = _matrix(vr, dtype, n, n, ldvr), 0
        while i < n:
            pair = dtype.kind != "c" and values[i].imag != 0
            out[:, i] = vectors[:, i] if dtype.kind == "c" else vectors[:, i].real
            if pair:
                out[:, i + 1] = vectors[:, i].imag
            i += 2 if pair else 1
    _set(rest[-1], 0)


_ROUTINES = {
    "Xgeev": _xgeev,
    "getrf": _getrf,
    "getrs": _getrs,
    "potrf": _potrf,
    "potrs": _potrs,
    "potrfBatched": _potrf_batched,
    "potrsBatched": _potrs_batched,
    "geqrf": _geqrf,
    "orgqr": _orgqr,
    "ungqr": _orgqr,
    "ormqr": _ormqr,
    "unmqr": _ormqr,
    "gesvd": _gesvd,
    "gesvdj": _gesvdj,
    "gesvdjBatched": _gesvdj_batched,
    "syevd": _syevd,
    "heevd": _syevd,
    "syevj": _syevd,
    "heevj": _syevd,
    "syevjBatched": _syevj_batched,
    "heevjBatched": _syevj_batched,
    "Xsyevd": _xsyevd,
}
