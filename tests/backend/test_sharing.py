"""Work that is divided among the cores: the same bits as one call, every part once, errors, and no nesting."""

import threading

import numpy as np
import pytest
from planting import planted

from minillm.backend import sharing as module
from minillm.backend.arrays import SimulatedArray
from minillm.backend.random_streams import stream
from minillm.backend.threads import blas_threads, thread_count


def rows_of(*shape):
    return stream("rows", *shape).normal(shape).astype(np.float32)


def assert_it_is_the_whole(module):
    module.BLOCK = 40
    x, z = rows_of(3, 7, 5), rows_of(3, 7, 4)
    for threads in (1, 2, 3):
        with blas_threads(threads):
            assert (module.by_rows(lambda x, z: x * z[:, :1], x, z) == x * z[..., :1]).all()
            wide = rows_of(3, 7, 10)  # halves of rows: no array of its own
            assert (module.by_rows(np.multiply, wide[..., :5], wide[..., 5:]) == wide[..., :5] * wide[..., 5:]).all()
            own = x.copy()
            assert module.by_rows(np.exp, own, out=own) is own
            assert (own == np.exp(x)).all()


def test_it_is_the_whole(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 40)
    assert_it_is_the_whole(module)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("start + rows)", "start + rows - 1)"),
        ("range(0, N, rows)", "range(rows, N, rows)"),
        ("*(x[block] for x in arrays)", "*(x[:rows] for x in arrays)"),
        ("work(part)", "waiting or work(part)"),
    ],
)
def test_faults_are_caught(right, wrong):
    with np.errstate(all="ignore"), pytest.raises((AssertionError, ValueError)):
        assert_it_is_the_whole(planted(module, right, wrong))


def test_small_and_other_arrays_are_one_call():
    shapes = []
    module.by_rows(lambda x: shapes.append(x.shape) or x, rows_of(3, 7, 5))
    module.by_rows(lambda x: shapes.append(x.shape) or x, rows_of(700, 500).view(SimulatedArray))
    assert shapes == [(3, 7, 5), (700, 500)]


def test_each_part_is_done_once_and_products_have_one_thread():
    before, done = thread_count(), []
    with blas_threads(2):
        module.shared(lambda part: done.append((part, thread_count())), range(20))
        assert thread_count() == 2
    assert sorted(done) == [(part, 1) for part in range(20)]
    assert thread_count() == before


def test_an_error_is_raised_when_all_threads_have_ended():
    both = threading.Barrier(2, timeout=60)

    def fail(part):
        both.wait()  # each of two threads has a part
        raise ValueError(f"part {part}")

    with blas_threads(2):
        with pytest.raises(ValueError, match="part"):
            module.shared(fail, range(2))
        done = []
        module.shared(done.append, range(4))
    assert sorted(done) == [0, 1, 2, 3]


def test_work_inside_shared_work_is_not_divided_again():
    names = []

    def work(part):
        module.shared(lambda inner: names.append((part, threading.get_ident())), range(3))

    with blas_threads(2):
        module.shared(work, range(4))
    assert all(len({thread for part, thread in names if part == each}) == 1 for each in range(4))
    assert len(names) == 12
