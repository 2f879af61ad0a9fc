"""The tree along which parts are added: one order, for any share of the work."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import planted

from minillm.distributed import tree

MOST = 33  # parts


def terms_of(parts: int, seed: int = 0) -> list[np.ndarray]:
    """A float32 array for each part, with sizes so different that the order of a sum shows."""
    generator = np.random.default_rng(seed)
    return [
        np.float32(10.0 ** generator.integers(-4, 5)) * generator.standard_normal(16, np.float32) for _ in range(parts)
    ]


def by_definition(terms, first: int, last: int) -> np.ndarray:
    """sum(first, last) = sum(first, middle) + sum(middle, last), written out."""
    if last - first == 1:
        return terms[first]
    power = 1
    while 2 * power < last - first:
        power *= 2
    return by_definition(terms, first, first + power) + by_definition(terms, first + power, last)


def by_workers(module, workers: int, parts: int, terms) -> np.ndarray:
    """Each worker adds its parts with `Running`; what is left is added along the tree.

    Checks that each part has one worker, and that a worker has the nodes that it should have, in no
    more arrays than are needed.
    """
    known, computed = {}, []
    for worker in range(workers):
        own = module.parts_of(worker, workers, parts)
        computed += own
        arrays = [np.full(16, np.nan, np.float32) for _ in range(module.slots_needed(own, parts))]

        def add(i, j, arrays=arrays):
            arrays[i] += arrays[j]

        running = module.Running(parts, add)
        for part in own:
            arrays[running.slot()][...] = terms[part]
            running.added(part)
        assert running.nodes == module.nodes_of(own, parts)
        known |= dict(zip(running.nodes, arrays))
    assert computed == list(range(parts))
    return module.add_up(known, (0, parts))


@given(parts=st.integers(1, MOST), workers=st.integers(1, MOST + 3))
@settings(max_examples=60, deadline=None)
def test_the_sum_has_the_bits_of_the_definition_for_any_number_of_workers(parts, workers):
    terms = terms_of(parts, seed=parts)
    assert by_workers(tree, workers, parts, terms).tobytes() == by_definition(terms, 0, parts).tobytes()


@given(parts=st.integers(1, MOST), ends=st.tuples(st.integers(0, MOST), st.integers(0, MOST)))
@settings(max_examples=60, deadline=None)
def test_nodes_cover_their_parts_once_and_cannot_be_added_further(parts, ends):
    own = range(min(*ends, parts), min(max(ends), parts))
    nodes = tree.nodes_of(own, parts)
    assert [part for first, last in nodes for part in range(first, last)] == list(own)
    for left, right in zip(nodes, nodes[1:]):
        assert (left, right) not in {tree.children(node) for node in all_nodes(parts) if node[1] - node[0] > 1}
    assert set(nodes) <= set(all_nodes(parts))


def all_nodes(parts: int) -> list[tree.Node]:
    """Every node of the tree over `parts` parts."""
    found, left = [], [(0, parts)]
    while left:
        found.append(left.pop())
        if found[-1][1] - found[-1][0] > 1:
            left += tree.children(found[-1])
    return found


def test_the_tree_of_the_picture():
    """S = 6, as the module's docstring draws it."""
    assert sorted(all_nodes(6)) == sorted(
        [(0, 6), (0, 4), (4, 6), (0, 2), (2, 4), *((part, part + 1) for part in range(6))]
    )
    assert tree.nodes_of(range(1, 4), 6) == [(1, 2), (2, 4)]
    assert tree.nodes_of(range(0), 6) == []


@pytest.mark.parametrize("parts", [1, 5, 8])
@pytest.mark.parametrize("workers", [1, 2, 3, 8, 9])
def test_workers_share_all_parts(parts, workers):
    shares = [tree.parts_of(worker, workers, parts) for worker in range(workers)]
    assert [part for share in shares for part in share] == list(range(parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("parts, needed", [(1, 1), (2, 2), (8, 4), (9, 4), (1024, 11)])
def test_a_worker_alone_needs_an_array_for_each_level(parts, needed):
    """log2(S) + 1: while the last part of a half is computed, the sums of the others wait."""
    assert tree.slots_needed(range(parts), parts) == needed


def test_a_missing_part_is_named():
    with pytest.raises(KeyError, match="the term of part 2 is missing"):
        tree.add_up({(0, 2): 1.0, (3, 4): 1.0}, (0, 4))


def test_numbers_are_added_as_arrays_are():
    losses = [np.float32(2**24), np.float32(1), np.float32(1), np.float32(1)]
    known = {(part, part + 1): loss for part, loss in enumerate(losses)}
    assert tree.add_up(known, (0, 4)) == by_definition(losses, 0, 4)


MIDDLE = "first + (1 << (last - first - 1).bit_length() - 1)"
MERGE = "self._add(len(self.nodes) - 1, len(self.nodes))"
MERGES = "while len(self.nodes) > 1 and self._parent(*self.nodes[-2:]):"
FAULTS = {
    "the middle is the half": (MIDDLE, "(first + last) // 2", "the bits of the sum"),
    "the middle is beside the first": (MIDDLE, "first + 1", "the bits of the sum"),
    "a node is merged twice": (
        "last = self.nodes.pop()\n",
        f"last = self.nodes.pop()\n{12 * ' '}{MERGE}\n",
        "the bits of the sum",
    ),
    "a node is merged into the wrong array": (MERGE, "self._add(0, len(self.nodes))", "the bits of the sum"),
    "neighbours that are no children are added": (MERGES, "while len(self.nodes) > 1:", "the bits of the sum"),
    "nothing is added early": (MERGES, "while False:", "the bits of the sum"),
    "a child is left out": ("    left += right\n", "", "the bits of the sum"),
    "a worker leaves out its last part": (
        "* (worker + 1) // workers)",
        "* (worker + 1) // workers - 1)",
        "the bits of the sum",
    ),
    "a part has two workers": (
        "range(all_parts * worker // workers,",
        "range(max(0, all_parts * worker // workers - 1),",
        "the bits of the sum",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    """By the bits, by the nodes that a worker should have, or by a part that is missing."""
    right, wrong, _ = FAULTS[fault]
    faulty = planted(tree, right, wrong)

    def all_agree() -> bool:
        for parts in range(1, 12):
            for workers in range(1, parts + 1):
                terms = terms_of(parts, seed=parts)
                try:
                    found = by_workers(faulty, workers, parts, terms)
                except (AssertionError, KeyError, IndexError):
                    return False
                if found.tobytes() != by_definition(terms, 0, parts).tobytes():
                    return False
        return True

    assert not all_agree()
