import numpy as np
import pytest

from minillm.backend import arrays as backend
from minillm.backend.random_streams import stream
from minillm.errors import MissingExtra, UserError


class TestStream:
    def test_words_are_those_of_philox_with_the_key(self):
        """The definition that a GPU kernel follows: word i = Philox4x64-10(key, counter 1 + i // 4)[i % 4]."""
        s = stream(1, "a")
        expected = [np.random.Philox(key=s.philox_key, counter=i // 4).random_raw(4)[i % 4] for i in range(10)]
        assert s.words(10).tolist() == expected

    def test_numbers_are_the_same_for_ever(self):
        """Fixed values: a change here would change every run that was ever made."""
        assert stream(1337, "batch", 0).words(2).tolist() == FIXED_WORDS
        assert stream(1337, "batch", 0).integers(1000, 4).tolist() == FIXED_INTEGERS
        assert stream(0).normal(3) == pytest.approx(FIXED_NORMALS, rel=1e-14)

    @pytest.mark.parametrize("other", [(1, "b"), ("1", "a"), (1, "a", 0), ("1a",), (), (2, "a")])
    def test_different_keys_give_different_numbers(self, other):
        assert stream(1, "a").words(1) != stream(*other).words(1)

    def test_integers_and_numpy_integers_are_the_same_key(self):
        assert stream(np.int64(5)).words(1) == stream(5).words(1)

    def test_nul_cannot_join_parts(self):
        with pytest.raises(ValueError, match="NUL"):
            stream("a\0sb")

    @pytest.mark.parametrize("start", [0, 1, 7, 8, 9, 31])
    def test_words32_are_halves_low_first(self, start):
        words = stream(3).words(40)
        halves = np.stack([words & 0xFFFFFFFF, words >> np.uint64(32)], axis=1).ravel()
        assert (stream(3).words32(21, start) == halves[start : start + 21]).all()

    def test_uniform(self):
        u = stream(4).uniform((1000, 100))
        assert 0 <= u.min() < 1e-4 and 1 - 1e-4 < u.max() < 1
        assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * u.size)

    def test_integers_are_equally_likely(self):
        """Chi-squared with 6 degrees of freedom: above 22.46 in one of 1,000 cases; the key is fixed."""
        counts = np.bincount(stream(5).integers(7, 70_000), minlength=7)
        assert len(counts) == 7 and ((counts - 10_000) ** 2 / 10_000).sum() < 22.46

    def test_normal_moments(self):
        z = stream(6).normal(200_001)
        n = np.sqrt(z.size)
        assert (
            abs(z.mean()) < 5 / n
            and abs(z.var() - 1) < 5 * np.sqrt(2) / n
            and abs((z**4).mean() - 3) < 5 * np.sqrt(96) / n
        )
        assert abs((z[:-1] * z[1:]).mean()) < 5 / n


FIXED_WORDS = [17036369633350958844, 12450051108911201040]
FIXED_INTEGERS = [923, 674, 540, 694]
FIXED_NORMALS = [-1.1484584044761565, 1.2142717125192821, -0.624822156308986]


class TestDevices:
    def test_simulated_arrays_stay_simulated(self):
        array = backend.to_device(np.ones(3), "cudasim")
        assert backend.device_of(array) == backend.device_of(array * 2) == "cudasim"
        assert backend.array_module(array) is np
        assert type(backend.to_host(array)) is np.ndarray and backend.device_of(backend.to_host(array)) == "cpu"

    def test_unknown_device(self):
        with pytest.raises(UserError, match='unknown device "tpu": use cpu'):
            backend.to_device(np.ones(3), "tpu")

    def test_cuda_without_cupy(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "cupy", None)
        with pytest.raises(MissingExtra, match=r'needs CuPy, which is not installed: pip install "minillm\[cuda13\]"'):
            backend.to_device(np.ones(3), "cuda")

    def test_unknown_dtype(self):
        with pytest.raises(UserError, match='unknown dtype "int8"'):
            backend.float_dtype("int8")
