"""cuBLAS beside its products: vectors, matrices times vectors, triangular systems, factorisations
in batches.

Formulas in NumPy on the same memory. cuBLAS has matrices by columns: `matrix` gives such a matrix
as its transpose, so that most lines here say what holds for the transposes.
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.standin import lapack
from minillm.kernels.standin.memory import array, matrix, number, pointer_at, vector
from minillm.kernels.standin.signatures import Function

DTYPES = {
    "S": np.dtype(np.float32),
    "D": np.dtype(np.float64),
    "C": np.dtype(np.complex64),
    "Z": np.dtype(np.complex128),
}
_LOWER, _UPPER = 0, 1  # cublasFillMode_t
_LEFT = 0  # cublasSideMode_t
_UNIT = 1  # cublasDiagType_t


def carry_out(function: Function, arguments: list, call) -> None:
    """A call of a function in signatures.CUBLAS.

    Raises NotImplementedError for one that is not here.
    """
    dtype = DTYPES[function.type]
    numbers = [
        number(value, _real(dtype) if letter == "A" else dtype, bool(call.device_scalars)) if letter in "aA" else value
        for letter, value in zip((x for x in function.letters if x not in "hwqn"), arguments)
    ]
    name = _WITHOUT_TYPE[function.name.removesuffix("_v2")]
    _ROUTINES[name](dtype, *numbers)


def _real(dtype: np.dtype) -> np.dtype:
    return np.zeros(0, dtype).real.dtype


def op(x: np.ndarray, operation: int) -> np.ndarray:
    """x, x^T or x^H for cublasOperation_t 0, 1, 2."""
    return (x, x.T, x.conj().T)[operation]


def _matrix(address: int, dtype: np.dtype, rows: int, columns: int, step: int) -> np.ndarray:
    """A matrix (rows, columns) by columns, as itself."""
    return matrix(address, dtype, rows, columns, step).T


def _scaled(factor, x: np.ndarray) -> np.ndarray | int:
    """factor x, where a factor of 0 does not look at x: it may be NaN there."""
    return factor * x if factor else 0


# -------------------------------------------------------------------------------------------- vectors


def _axpy(dtype, n, alpha, x, step_x, y, step_y):
    vector(y, dtype, n, step_y)[...] += alpha * vector(x, dtype, n, step_x)


def _scal(dtype, n, alpha, x, step_x):
    vector(x, dtype, n, step_x)[...] *= alpha


def _dot(dtype, n, x, step_x, y, step_y, result):
    array(result, dtype, (1,))[0] = vector(x, dtype, n, step_x) @ vector(y, dtype, n, step_y)


def _dotc(dtype, n, x, step_x, y, step_y, result):
    array(result, dtype, (1,))[0] = vector(x, dtype, n, step_x).conj() @ vector(y, dtype, n, step_y)


def _nrm2(dtype, n, x, step_x, result):
    array(result, _real(dtype), (1,))[0] = np.linalg.norm(vector(x, dtype, n, step_x))


def _asum(dtype, n, x, step_x, result):
    values = vector(x, dtype, n, step_x)
    array(result, _real(dtype), (1,))[0] = np.abs(values.real).sum() + (
        np.abs(values.imag).sum() if dtype.kind == "c" else 0
    )


def _size_of_each(x: np.ndarray) -> np.ndarray:
    """|re| + |im|, by which BLAS compares complex numbers."""
    return np.abs(x.real) + np.abs(x.imag) if x.dtype.kind == "c" else np.abs(x)


def _amax(dtype, n, x, step_x, result):
    values = _size_of_each(vector(x, dtype, n, step_x))
    array(result, np.int32, (1,))[0] = values.argmax() + 1 if values.size else 0  # counted from 1


def _amin(dtype, n, x, step_x, result):
    values = _size_of_each(vector(x, dtype, n, step_x))
    array(result, np.int32, (1,))[0] = values.argmin() + 1 if values.size else 0


# ------------------------------------------------------------------------- matrices and vectors


def _gemv(dtype, operation, m, n, alpha, a, lda, x, step_x, beta, y, step_y):
    rows, columns = (n, m) if operation else (m, n)
    y = vector(y, dtype, rows, step_y)
    y[...] = _scaled(alpha, op(_matrix(a, dtype, m, n, lda), operation) @ vector(x, dtype, columns, step_x)) + _scaled(
        beta, y
    )


def _geru(dtype, m, n, alpha, x, step_x, y, step_y, a, lda):
    _matrix(a, dtype, m, n, lda)[...] += alpha * np.outer(vector(x, dtype, m, step_x), vector(y, dtype, n, step_y))


def _gerc(dtype, m, n, alpha, x, step_x, y, step_y, a, lda):
    _matrix(a, dtype, m, n, lda)[...] += alpha * np.outer(
        vector(x, dtype, m, step_x), vector(y, dtype, n, step_y).conj()
    )


def _sbmv(dtype, uplo, n, k, alpha, a, lda, x, step_x, beta, y, step_y):
    """A symmetric matrix of k diagonals beside the middle one, each a row of `a`."""
    band, full = _matrix(a, dtype, k + 1, n, lda), np.zeros((n, n), dtype)
    for distance in range(min(k, n - 1) + 1):
        row = band[distance, : n - distance] if uplo == _LOWER else band[k - distance, distance:]
        np.fill_diagonal(full[distance:], row)
        np.fill_diagonal(full[:, distance:], row)
    y = vector(y, dtype, n, step_y)
    y[...] = _scaled(alpha, full @ vector(x, dtype, n, step_x)) + _scaled(beta, y)


# ----------------------------------------------------------------------------------------- matrices


def _geam(dtype, op_a, op_b, m, n, alpha, a, lda, beta, b, ldb, c, ldc):
    """C = alpha op(A) + beta op(B)."""
    parts = []
    for factor, address, step, operation in ((alpha, a, lda, op_a), (beta, b, ldb, op_b)):
        rows, columns = (n, m) if operation else (m, n)
        parts.append(factor * op(_matrix(address, dtype, rows, columns, step), operation) if factor else 0)
    _matrix(c, dtype, m, n, ldc)[...] = parts[0] + parts[1]


def _dgmm(dtype, side, m, n, a, lda, x, step_x, c, ldc):
    """C = diag(x) A, or A diag(x) on the right."""
    a = _matrix(a, dtype, m, n, lda)
    x = vector(x, dtype, m if side == _LEFT else n, step_x)
    _matrix(c, dtype, m, n, ldc)[...] = x[:, None] * a if side == _LEFT else a * x


def _syrk(dtype, uplo, operation, n, k, alpha, a, lda, beta, c, ldc):
    """One triangle of C = alpha op(A) op(A)^T + beta C."""
    a = op(_matrix(a, dtype, *((k, n) if operation else (n, k)), lda), 1 if operation else 0)
    c = _matrix(c, dtype, n, n, ldc)
    kept = np.tri(n, dtype=bool) if uplo == _LOWER else np.tri(n, dtype=bool).T
    c[kept] = (_scaled(alpha, a @ a.T) + _scaled(beta, c))[kept]


def _trsm(dtype, side, uplo, operation, diagonal, m, n, alpha, a, lda, b, ldb):
    """op(A) X = alpha B, or X op(A) = alpha B on the right, for a triangular A; X is written over
    B.
    """
    size = m if side == _LEFT else n
    a, b = _matrix(a, dtype, size, size, lda), _matrix(b, dtype, m, n, ldb)
    a = np.tril(a) if uplo == _LOWER else np.triu(a)
    if diagonal == _UNIT:
        np.fill_diagonal(a, 1)
    a = op(a, operation)
    b[...] = np.linalg.solve(a, alpha * b) if side == _LEFT else np.linalg.solve(a.T, alpha * b.T).T


def _trsm_batched(dtype, side, uplo, operation, diagonal, m, n, alpha, a, lda, b, ldb, batch):
    for i in range(batch):
        _trsm(dtype, side, uplo, operation, diagonal, m, n, alpha, pointer_at(a, i), lda, pointer_at(b, i), ldb)


def _tpttr(dtype, uplo, n, packed, a, lda):
    """A triangle from its packed columns."""
    for i, (start, stop) in enumerate(_columns(uplo, n)):
        _matrix(a, dtype, n, n, lda)[start:stop, i] = array(packed, dtype, (n * (n + 1) // 2,))[_packed(uplo, n, i)]


def _trttp(dtype, uplo, n, a, lda, packed):
    for i, (start, stop) in enumerate(_columns(uplo, n)):
        array(packed, dtype, (n * (n + 1) // 2,))[_packed(uplo, n, i)] = _matrix(a, dtype, n, n, lda)[start:stop, i]


def _columns(uplo: int, n: int) -> list[tuple[int, int]]:
    """The rows of a triangle's columns."""
    return [(i, n) if uplo == _LOWER else (0, i + 1) for i in range(n)]


def _packed(uplo: int, n: int, i: int) -> slice:
    """Where column i lies among the packed ones."""
    start = i * n - i * (i - 1) // 2 if uplo == _LOWER else i * (i + 1) // 2
    return slice(start, start + (n - i if uplo == _LOWER else i + 1))


# ------------------------------------------------------------------------------ batches of systems


def _getrf_batched(dtype, n, a, lda, pivots, info, batch):
    """P A = L U for each matrix of a list; without `pivots`, without exchanging rows."""
    for i in range(batch):
        matrix_i = _matrix(pointer_at(a, i), dtype, n, n, lda)
        if pivots:
            rows = array(pivots + 4 * n * i, np.int32, (n,))
            array(info, np.int32, (batch,))[i] = lapack.getrf(matrix_i, rows)
        else:
            array(info, np.int32, (batch,))[i] = _without_pivots(matrix_i)


def _without_pivots(a: np.ndarray) -> int:
    """A = L U in place, L with a diagonal of ones.

    The number of the first pivot that is 0, from 1.
    """
    for k in range(len(a)):
        if a[k, k] == 0:
            return k + 1
        a[k + 1 :, k] /= a[k, k]
        a[k + 1 :, k + 1 :] -= np.outer(a[k + 1 :, k], a[k, k + 1 :])
    return 0


def _getrs_batched(dtype, operation, n, columns, a, lda, pivots, b, ldb, batch):
    for i in range(batch):
        factors, right = _matrix(pointer_at(a, i), dtype, n, n, lda), _matrix(pointer_at(b, i), dtype, n, columns, ldb)
        rows = array(pivots + 4 * n * i, np.int32, (n,)) if pivots else np.arange(1, n + 1, dtype=np.int32)
        lapack.getrs(factors, rows, right, operation)


def _getri_batched(dtype, n, a, lda, pivots, c, ldc, info, batch):
    """C = A^-1 from the factors of each A."""
    for i in range(batch):
        factors, inverse = _matrix(pointer_at(a, i), dtype, n, n, lda), _matrix(pointer_at(c, i), dtype, n, n, ldc)
        zero = np.flatnonzero(np.diagonal(factors) == 0)
        array(info, np.int32, (batch,))[i] = zero[0] + 1 if zero.size else 0
        if not zero.size:
            rows = array(pivots + 4 * n * i, np.int32, (n,)) if pivots else np.arange(1, n + 1, dtype=np.int32)
            inverse[...] = np.eye(n, dtype=dtype)
            lapack.getrs(factors, rows, inverse, 0)


_ROUTINES = {
    "axpy": _axpy,
    "scal": _scal,
    "dot": _dot,
    "dotu": _dot,
    "dotc": _dotc,
    "nrm2": _nrm2,
    "asum": _asum,
    "amax": _amax,
    "amin": _amin,
    "gemv": _gemv,
    "ger": _geru,
    "geru": _geru,
    "gerc": _gerc,
    "sbmv": _sbmv,
    "geam": _geam,
    "dgmm": _dgmm,
    "syrk": _syrk,
    "trsm": _trsm,
    "trsmBatched": _trsm_batched,
    "tpttr": _tpttr,
    "trttp": _trttp,
    "getrfBatched": _getrf_batched,
    "getrsBatched": _getrs_batched,
    "getriBatched": _getri_batched,
}


class _Names(dict):
    """cublasDznrm2 -> nrm2, cublasIsamax -> amax, cublasCgeam -> geam."""

    def __missing__(self, name: str) -> str:
        found = max((routine for routine in _ROUTINES if name.endswith(routine)), key=len, default=None)
        if found is None:
            raise NotImplementedError(f"{name} is not there")
        self[name] = found
        return found


_WITHOUT_TYPE = _Names()
