"""cuBLAS, cuRAND and cuSOLVER on the stand-in for a GPU, as CuPy calls them, beside NumPy."""

import importlib

import numpy as np
import pytest

pytestmark = pytest.mark.gpu
TYPES = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}
TOLERANCE = {"s": 1e-4, "d": 1e-12, "c": 1e-4, "z": 1e-12}


@pytest.fixture
def cupy():
    from minillm.kernels.standin import attach

    if attach.cuda is None:
        pytest.skip("the stand-in is not attached: a real GPU is here")
    return pytest.importorskip("cupy")


@pytest.fixture
def blas(cupy):
    from cupy_backends.cuda.libs import cublas

    return cublas


@pytest.fixture
def handle(cupy):
    return cupy.cuda.device.get_cublas_handle()


@pytest.fixture
def solver(cupy):
    from cupy_backends.cuda.libs import cusolver

    return cusolver


def numbers(letter: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers of a type, matrices by columns."""
    rng, dtype = np.random.default_rng(seed), TYPES[letter]
    drawn = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if letter in "cz" else 0)
    return np.asfortranarray(drawn.astype(dtype))


def on_device(cupy, x: np.ndarray):
    """The numbers of x on the device, in the order in which they lie: no kernel has to turn them
    round.
    """
    return cupy.asarray(x.ravel(order="K"))


def back(x, like: np.ndarray) -> np.ndarray:
    return x.get().reshape(like.shape, order="F")


def one(cupy, letter: str, value):
    """A number on the host, for its address."""
    return np.array([value], TYPES[letter])


def close(found, expected, letter: str) -> None:
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[letter], atol=TOLERANCE[letter])


class TestProducts:
    @pytest.mark.parametrize("letter", TYPES)
    @pytest.mark.parametrize("operation", [0, 1, 2])
    def test_gemm(self, cupy, blas, handle, letter, operation):
        a, b, c = numbers(letter, 3, 4), numbers(letter, 3, 2), numbers(letter, 4 if operation else 3, 2)
        if not operation:
            b = numbers(letter, 4, 2)
        x, y, z = (on_device(cupy, m) for m in (a, b, c))
        alpha, beta = one(cupy, letter, 2), one(cupy, letter, 3)
        sizes = (c.shape[0], 2, b.shape[0])
        pointers = (alpha.ctypes.data, x.data.ptr, 3, y.data.ptr, b.shape[0], beta.ctypes.data, z.data.ptr, c.shape[0])
        getattr(blas, f"{letter}gemm")(handle, operation, 0, *sizes, *pointers)
        close(back(z, c), 2 * (a, a.T, a.conj().T)[operation] @ b + 3 * c, letter)

    def test_factors_on_the_device(self, cupy, blas, handle):
        """The pointer mode says where alpha and beta lie."""
        a, factors = numbers("d", 3, 3), cupy.asarray(np.array([2.0, 0.0]))
        x, z = on_device(cupy, a), cupy.asarray(np.full(9, np.nan))
        blas.setPointerMode(handle, blas.CUBLAS_POINTER_MODE_DEVICE)
        try:
            pointers = (factors.data.ptr, x.data.ptr, 3, x.data.ptr, 3, factors.data.ptr + 8, z.data.ptr, 3)
            blas.dgemm(handle, 0, 0, 3, 3, 3, *pointers)
        finally:
            blas.setPointerMode(handle, blas.CUBLAS_POINTER_MODE_HOST)
        close(back(z, a), 2 * a @ a, "d")

    def test_half_precision_is_summed_in_float32(self, cupy):
        """2,048 is where float16 has no odd numbers any more: a sum in float16 would stay there."""
        x, y = np.ones((2, 2060), np.float16), np.ones((2060, 2), np.float16)
        assert (cupy.asarray(x) @ cupy.asarray(y)).get()[0, 0] == 2060

    def test_batches(self, cupy):
        x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
        w = np.random.default_rng(1).standard_normal((3, 5, 2)).astype(np.float32)
        close((cupy.asarray(x) @ cupy.asarray(w)).get(), x @ w, "s")

    def test_a_short_leading_dimension(self, cupy, blas, handle, capfd):
        x, factors = cupy.asarray(np.ones(9)), np.ones(1)
        with pytest.raises(blas.CUBLASError, match="INVALID_VALUE"):
            pointers = (factors.ctypes.data, x.data.ptr, 2, x.data.ptr, 3, factors.ctypes.data, x.data.ptr, 3)
            blas.dgemm(handle, 0, 0, 3, 3, 3, *pointers)
        assert "leading dimension" in capfd.readouterr().err


class TestVectors:
    @pytest.mark.parametrize("letter", TYPES)
    def test_with_steps(self, cupy, blas, handle, letter):
        a, x, y = numbers(letter, 3, 4), numbers(letter, 8), numbers(letter, 9, seed=1)
        matrix, u, v = (on_device(cupy, m) for m in (a, x, y))
        alpha, beta = one(cupy, letter, 2), one(cupy, letter, 3)
        pointers = (alpha.ctypes.data, matrix.data.ptr, 3, u.data.ptr, 2, beta.ctypes.data, v.data.ptr, 3)
        getattr(blas, f"{letter}gemv")(handle, 0, 3, 4, *pointers)
        expected = y.copy()
        expected[::3] = 2 * a @ x[::2] + 3 * y[::3]
        close(v.get(), expected, letter)
        getattr(blas, f"{letter}axpy")(handle, 4, alpha.ctypes.data, u.data.ptr, 2, v.data.ptr, 1)
        expected[:4] += 2 * x[::2]
        close(v.get(), expected, letter)
        getattr(blas, f"{letter}scal")(handle, 3, beta.ctypes.data, v.data.ptr, 3)
        expected[::3] *= 3
        close(v.get(), expected, letter)

    @pytest.mark.parametrize("letter", TYPES)
    def test_scalar_products(self, cupy, blas, handle, letter):
        x, y, result = numbers(letter, 6), numbers(letter, 6, seed=1), np.zeros(1, TYPES[letter])
        u, v = on_device(cupy, x), on_device(cupy, y)
        for name, expected in (("dotu", x @ y), ("dotc", x.conj() @ y)) if letter in "cz" else (("dot", x @ y),):
            getattr(blas, letter + name)(handle, 6, u.data.ptr, 1, v.data.ptr, 1, result.ctypes.data)
            close(result[0], expected, letter)

    @pytest.mark.parametrize(
        "letter,norm,total",
        [("s", "snrm2", "sasum"), ("d", "dnrm2", "dasum"), ("c", "scnrm2", "scasum"), ("z", "dznrm2", "dzasum")],
    )
    def test_norms_and_the_largest(self, cupy, blas, handle, letter, norm, total):
        x = numbers(letter, 6)
        u, result, place = on_device(cupy, x), np.zeros(1, x.real.dtype), np.zeros(1, np.int32)
        sizes = np.abs(x.real) + np.abs(x.imag)
        getattr(blas, norm)(handle, 6, u.data.ptr, 1, result.ctypes.data)
        close(result[0], np.linalg.norm(x), letter)
        getattr(blas, total)(handle, 6, u.data.ptr, 1, result.ctypes.data)
        close(result[0], sizes.sum(), letter)
        for name, expected in (("amax", sizes.argmax()), ("amin", sizes.argmin())):
            getattr(blas, f"i{letter}{name}")(handle, 6, u.data.ptr, 1, place.ctypes.data)
            assert place[0] == expected + 1

    @pytest.mark.parametrize("letter", TYPES)
    def test_outer_products(self, cupy, blas, handle, letter):
        a, x, y = numbers(letter, 3, 2), numbers(letter, 3), numbers(letter, 2, seed=1)
        for name in ("geru", "gerc") if letter in "cz" else ("ger",):
            matrix, u, v = (on_device(cupy, m) for m in (a, x, y))
            alpha = one(cupy, letter, 2)
            getattr(blas, letter + name)(
                handle, 3, 2, alpha.ctypes.data, u.data.ptr, 1, v.data.ptr, 1, matrix.data.ptr, 3
            )
            close(back(matrix, a), a + 2 * np.outer(x, y.conj() if name == "gerc" else y), letter)


class TestMatrices:
    @pytest.mark.parametrize("letter", TYPES)
    def test_sums_and_diagonals(self, cupy, blas, handle, letter):
        a, x = numbers(letter, 3, 3), numbers(letter, 3, seed=1)
        matrix, u, out = on_device(cupy, a), on_device(cupy, x), cupy.asarray(np.zeros(9, TYPES[letter]))
        alpha, beta = one(cupy, letter, 2), one(cupy, letter, 3)
        pointers = (alpha.ctypes.data, matrix.data.ptr, 3, beta.ctypes.data, matrix.data.ptr, 3, out.data.ptr, 3)
        getattr(blas, f"{letter}geam")(handle, 0, 2, 3, 3, *pointers)
        close(back(out, a), 2 * a + 3 * a.conj().T, letter)
        for side, expected in ((0, x[:, None] * a), (1, a * x)):
            getattr(blas, f"{letter}dgmm")(handle, side, 3, 3, matrix.data.ptr, 3, u.data.ptr, 1, out.data.ptr, 3)
            close(back(out, a), expected, letter)

    @pytest.mark.parametrize("letter", TYPES)
    @pytest.mark.parametrize("lower", [True, False])
    def test_one_triangle(self, cupy, blas, handle, letter, lower):
        a, c = numbers(letter, 3, 2), numbers(letter, 3, 3, seed=1)
        matrix, out, alpha, beta = on_device(cupy, a), on_device(cupy, c), one(cupy, letter, 2), one(cupy, letter, 3)
        pointers = (alpha.ctypes.data, matrix.data.ptr, 3, beta.ctypes.data, out.data.ptr, 3)
        getattr(blas, f"{letter}syrk")(handle, 0 if lower else 1, 0, 3, 2, *pointers)
        kept = np.tri(3, dtype=bool) if lower else np.tri(3, dtype=bool).T
        close(back(out, c), np.where(kept, 2 * a @ a.T + 3 * c, c), letter)

    @pytest.mark.parametrize("letter", TYPES)
    @pytest.mark.parametrize("side", [0, 1])
    @pytest.mark.parametrize("operation", [0, 1, 2])
    def test_triangular_systems(self, cupy, blas, handle, letter, side, operation):
        a = np.asfortranarray(numbers(letter, 3, 3) + 4 * np.eye(3, dtype=TYPES[letter]))
        b = numbers(letter, *((3, 2) if side == 0 else (2, 3)), seed=1)
        for upper in (False, True):
            matrix, out, alpha = on_device(cupy, a), on_device(cupy, b), one(cupy, letter, 2)
            settings = (side, int(upper), operation, 0, *b.shape)
            pointers = (alpha.ctypes.data, matrix.data.ptr, 3, out.data.ptr, b.shape[0])
            getattr(blas, f"{letter}trsm")(handle, *settings, *pointers)
            triangle = np.triu(a) if upper else np.tril(a)
            triangle = (triangle, triangle.T, triangle.conj().T)[operation]
            x = back(out, b)
            close(triangle @ x if side == 0 else x @ triangle, 2 * b, letter)

    @pytest.mark.parametrize("letter", TYPES)
    def test_batches_of_systems(self, cupy, blas, handle, letter):
        a, b = (
            np.stack([numbers(letter, 3, 3), numbers(letter, 3, 3, seed=1)]),
            np.stack([numbers(letter, 3, 2, seed=2)] * 2),
        )
        matrices, right = (cupy.asarray(np.stack([m.T for m in x]).ravel()) for x in (a, b))
        size = TYPES[letter]().itemsize
        places = cupy.asarray(matrices.data.ptr + 9 * size * np.arange(2, dtype=np.uint64))
        columns = cupy.asarray(right.data.ptr + 6 * size * np.arange(2, dtype=np.uint64))
        pivots, info = cupy.asarray(np.zeros(6, np.int32)), cupy.asarray(np.ones(2, np.int32))
        getattr(blas, f"{letter}getrfBatched")(handle, 3, places.data.ptr, 3, pivots.data.ptr, info.data.ptr, 2)
        assert info.get().tolist() == [0, 0]
        host_info, pointers = np.ones(1, np.int32), (places.data.ptr, 3, pivots.data.ptr, columns.data.ptr, 3)
        getattr(blas, f"{letter}getrsBatched")(handle, 0, 3, 2, *pointers, host_info.ctypes.data, 2)
        assert host_info[0] == 0
        found = right.get().reshape(2, 2, 3).transpose(0, 2, 1)
        close(a @ found, b, letter)
        inverse = cupy.asarray(np.zeros(18, TYPES[letter]))
        out = cupy.asarray(inverse.data.ptr + 9 * size * np.arange(2, dtype=np.uint64))
        pointers = (places.data.ptr, 3, pivots.data.ptr, out.data.ptr, 3, info.data.ptr)
        getattr(blas, f"{letter}getriBatched")(handle, 3, *pointers, 2)
        close(a @ inverse.get().reshape(2, 3, 3).transpose(0, 2, 1), np.stack([np.eye(3)] * 2), letter)

    def test_packed_triangles_and_bands(self, cupy, blas, handle):
        a = numbers("d", 4, 4)
        for upper in (0, 1):
            matrix, packed, out = on_device(cupy, a), cupy.asarray(np.zeros(10)), cupy.asarray(np.zeros(16))
            blas.dtrttp(handle, upper, 4, matrix.data.ptr, 4, packed.data.ptr)
            blas.dtpttr(handle, upper, 4, packed.data.ptr, out.data.ptr, 4)
            close(back(out, a), np.triu(a) if upper else np.tril(a), "d")
        band, x, y, factor = numbers("d", 2, 4), numbers("d", 4), np.zeros(4), np.ones(1)
        full = np.diag(band[0]) + np.diag(band[1, :3], -1) + np.diag(band[1, :3], 1)
        matrix, u, v = (on_device(cupy, m) for m in (band, x, y))
        pointers = (factor.ctypes.data, matrix.data.ptr, 2, u.data.ptr, 1, factor.ctypes.data, v.data.ptr, 1)
        blas.dsbmv(handle, 0, 4, 1, *pointers)
        close(v.get(), full @ x, "d")


class TestSolver:
    """Through cupy.linalg, whose own kernels are few in float64 for matrices by rows."""

    @pytest.fixture
    def a(self):
        return np.random.default_rng(0).standard_normal((4, 4))

    def test_systems(self, cupy, a):
        x, linalg = cupy.asarray(a), cupy.linalg
        close(linalg.solve(x, cupy.asarray(a[:, :2])).get(), np.eye(4)[:, :2], "d")
        close(linalg.inv(x).get(), np.linalg.inv(a), "d")
        close(linalg.det(x).get(), np.linalg.det(a), "d")
        tall = cupy.asarray(a[:, :2].copy())
        close(linalg.lstsq(tall, x, rcond=None)[0].get(), np.linalg.lstsq(a[:, :2], a, rcond=None)[0], "d")
        close(linalg.pinv(tall).get(), np.linalg.pinv(a[:, :2]), "d")

    def test_factorisations(self, cupy, a):
        linalg, positive = cupy.linalg, a @ a.T + np.eye(4)
        close(linalg.cholesky(cupy.asarray(positive)).get(), np.linalg.cholesky(positive), "d")
        q, r = (x.get() for x in linalg.qr(cupy.asarray(a[:, :3].copy())))
        close(q @ r, a[:, :3], "d")
        close(q.T @ q, np.eye(3), "d")
        u, s, vt = (x.get() for x in linalg.svd(cupy.asarray(a[:, :3].copy()), full_matrices=False))
        close((u * s) @ vt, a[:, :3], "d")
        w, v = (x.get() for x in linalg.eigh(cupy.asarray(positive)))
        close(w, np.linalg.eigvalsh(positive), "d")
        close((v * w) @ v.T, positive, "d")

    def test_a_matrix_that_is_not_positive(self, cupy):
        import cupyx

        with cupyx.errstate(linalg="raise"), pytest.raises(np.linalg.LinAlgError):
            cupy.linalg.cholesky(cupy.asarray(-np.eye(3)))

    @pytest.mark.parametrize("letter", TYPES)
    def test_each_type(self, cupy, solver, letter):
        """LU, Cholesky, QR, singular values and eigenvalues by cuSOLVER's own functions."""
        handle, a = cupy.cuda.device.get_cusolver_handle(), numbers(letter, 4, 4)
        work, info = cupy.asarray(np.zeros(64, TYPES[letter])), cupy.asarray(np.ones(1, np.int32))
        pivots, tau = cupy.asarray(np.zeros(4, np.int32)), cupy.asarray(np.zeros(4, TYPES[letter]))
        x, b = on_device(cupy, a), on_device(cupy, a)
        getattr(solver, f"{letter}getrf")(handle, 4, 4, x.data.ptr, 4, work.data.ptr, pivots.data.ptr, info.data.ptr)
        getattr(solver, f"{letter}getrs")(handle, 0, 4, 4, x.data.ptr, 4, pivots.data.ptr, b.data.ptr, 4, info.data.ptr)
        close(back(b, a), np.eye(4), letter)
        positive = np.asfortranarray(a @ a.conj().T + np.eye(4, dtype=TYPES[letter]))
        x, values = on_device(cupy, positive), cupy.asarray(np.zeros(4, a.real.dtype))
        name = ("he" if letter in "cz" else "sy") + "evd"
        pointers = (x.data.ptr, 4, values.data.ptr, work.data.ptr, 64, info.data.ptr)
        getattr(solver, letter + name)(handle, 1, 0, 4, *pointers)
        w, v = values.get(), back(x, a)
        close((v * w) @ v.conj().T, positive, letter)
        x = on_device(cupy, positive)
        getattr(solver, f"{letter}potrf")(handle, 0, 4, x.data.ptr, 4, work.data.ptr, 64, info.data.ptr)
        close(np.tril(back(x, a)), np.linalg.cholesky(positive), letter)
        x = on_device(cupy, a)
        getattr(solver, f"{letter}geqrf")(handle, 4, 4, x.data.ptr, 4, tau.data.ptr, work.data.ptr, 64, info.data.ptr)
        r = np.triu(back(x, a))
        name = ("ung" if letter in "cz" else "org") + "qr"
        getattr(solver, letter + name)(handle, 4, 4, 4, x.data.ptr, 4, tau.data.ptr, work.data.ptr, 64, info.data.ptr)
        close(back(x, a) @ r, a, letter)
        x, u, vt = on_device(cupy, a), on_device(cupy, a), on_device(cupy, a)
        pointers = (x.data.ptr, 4, values.data.ptr, u.data.ptr, 4, vt.data.ptr, 4, work.data.ptr, 64, 0, info.data.ptr)
        getattr(solver, f"{letter}gesvd")(handle, ord("A"), ord("A"), 4, 4, *pointers)
        close((back(u, a) * values.get()) @ back(vt, a), a, letter)
        assert info.get()[0] == 0

    def test_eigenvalues_of_any_matrix(self, cupy, solver):
        if not hasattr(cupy.linalg, "eigvals"):
            pytest.skip("this CuPy has no eig")
        turned = np.array([[0.0, -2], [2, 0]])
        w, v = (x.get() for x in cupy.linalg.eig(cupy.asarray(turned)))
        close(turned @ v, v * w, "d")
        close(sorted(w.imag), [-2, 2], "d")


class TestRandomNumbers:
    def test_their_distributions(self, cupy):
        random = cupy.random
        random.seed(1)
        for drawn, mean, deviation in (
            (random.rand(4000), 0.5, 12**-0.5),
            (random.normal(3, 2, 4000), 3, 2),
            (random.lognormal(0, 0.5, 4000), np.exp(0.125), np.exp(0.125) * (np.exp(0.25) - 1) ** 0.5),
        ):
            x = drawn.get()
            assert abs(x.mean() - mean) < 0.1 * deviation and abs(x.std() - deviation) < 0.1 * deviation
        assert set(random.randint(0, 5, 200).get()) == set(range(5))
        assert sorted(random.permutation(8).get()) == list(range(8))

    def test_the_same_seed_the_same_numbers(self, cupy):
        first, second = (cupy.random.RandomState(7) for _ in range(2))
        drawn = first.random_sample(5).get()
        assert second.random_sample(5).get().tolist() == drawn.tolist()
        assert first.random_sample(5).get().tolist() != drawn.tolist()
        assert cupy.random.RandomState(8).random_sample(5).get().tolist() != drawn.tolist()

    def test_numbers_go_on_where_they_ended(self, cupy):
        from cupy_backends.cuda.libs import curand

        def drawn(*counts: int) -> list[float]:
            generator, found = curand.createGenerator(curand.CURAND_RNG_PSEUDO_DEFAULT), []
            curand.setPseudoRandomGeneratorSeed(generator, 3)
            for count in counts:
                x = cupy.asarray(np.zeros(count))
                curand.generateUniformDouble(generator, x.data.ptr, count)
                found += x.get().tolist()
            curand.destroyGenerator(generator)
            return found

        assert drawn(5) == drawn(2, 3) and len(set(drawn(5))) == 5

    def test_uniform_numbers_are_never_zero(self):
        from minillm.kernels.standin import random

        bits = np.array([[0, 2**64 - 1]] * 2, np.uint64)
        assert random._uniform_float(bits).astype(np.float32).tolist() == [np.float32(2.0**-24), 1]
        assert random._uniform(bits[0]).tolist() == [2.0**-53, 1]

    def test_poisson(self):
        from minillm.kernels.standin import random

        x = random._poisson(random._bits(1, 0, 4000), 4.0)
        assert abs(x.mean() - 4) < 0.2 and abs(x.var() - 4) < 0.5


class TestRefused:
    def test_each_by_its_name(self, cupy):
        with pytest.raises(
            ImportError, match=r"\AcuFFT \(cupy.fft\) is not part of minillm's stand-in[^\n]*numpy.fft[^\n]*\Z"
        ):
            cupy.fft.fft(cupy.asarray(np.ones(4)))
        with pytest.raises(ImportError, match="cuSPARSE.*scipy.sparse"):
            from cupy_backends.cuda.libs import cusparse  # noqa: F401
        for package in ("signal", "interpolate"):  # as docs/cupy.md says
            with pytest.raises(ImportError, match="cuSPARSE.*scipy.sparse"):
                importlib.import_module(f"cupyx.scipy.{package}")
        with pytest.raises(ImportError, match="NCCL"):
            from cupy_backends.cuda.libs import nccl  # noqa: F401

    def test_a_function_that_is_not_there(self, cupy, solver, capfd):
        handle = cupy.cuda.device.get_cusolver_handle()
        with pytest.raises(solver.CUSOLVERError, match="NOT_SUPPORTED"):
            solver.dgebrd(handle, 2, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0)
        assert "cusolverDnDgebrd: the stand-in does not have it" in capfd.readouterr().err

    def test_nothing_is_computed_where_nothing_is_to_be(self, cupy):
        from minillm.kernels.standin.recording import LibraryCall, recorded

        x = cupy.asarray(np.eye(3))
        with recorded(compute=False) as calls:
            cupy.linalg.cholesky(x)
        assert LibraryCall("cusolverDnDpotrf") in calls
