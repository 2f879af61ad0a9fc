"""Sorting, searching and grouping."""

import cupy as cp
import numpy as np

rng = np.random.default_rng(19)
keys, values = rng.integers(0, 8, 60).astype(np.int32), rng.standard_normal(60).astype(np.float32)
k, v = cp.asarray(keys), cp.asarray(values)
np.testing.assert_array_equal(cp.sort(v).get(), np.sort(values))
np.testing.assert_array_equal(cp.argsort(k).get(), np.argsort(keys, kind="stable"))
np.testing.assert_array_equal(cp.unique(k).get(), np.unique(keys))
np.testing.assert_array_equal(cp.searchsorted(cp.sort(v), cp.asarray([-1, 0, 1], dtype=cp.float32)).get(),
                              np.searchsorted(np.sort(values), [-1, 0, 1]))  # fmt: skip
sums = cp.zeros(8, cp.float32)
cp.add.at(sums, k, v)
expected = np.zeros(8, np.float32)
np.add.at(expected, keys, values)
np.testing.assert_allclose(sums.get(), expected, rtol=1e-5, atol=1e-6)
np.testing.assert_array_equal(v[k == 3].get(), values[keys == 3])
np.testing.assert_array_equal(cp.cumsum(k).get(), np.cumsum(keys))
print("groups:", cp.unique(k))
