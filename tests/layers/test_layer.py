"""How a layer finds what it is made of, and what its parameters take."""

from collections import OrderedDict

import numpy as np
import pytest

import minillm
from minillm.backend.overlap import memory_conflict


def made(**attributes):
    layer = minillm.Layer()
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def parameter(*shape):
    return minillm.Parameter(np.zeros(shape))


def test_parameters_and_layers_in_containers_have_path_names():
    inner = made(b=parameter(2), more=[(parameter(3), {"x": parameter(4)})])
    layer = made(
        w=parameter(1),
        ws=[parameter(5), 7, None],
        table=OrderedDict(name=parameter(6), sub=inner),
        h=({"in": inner, 0: made(c=parameter())},),
    )
    names = ["w", "ws.0", "table.name", "table.sub.b", "table.sub.more.0.0", "table.sub.more.0.1.x", "h.0.0.c"]
    assert list(layer.parameters()) == names
    assert [name for name, _ in layer.children()] == ["table.sub", "h.0.in", "h.0.0"]
    assert [path for path, _ in layer.layers()] == ["", "table.sub", "h.0.0"]
    layer.eval()
    assert not inner.training
    assert [p.value.size for p in layer.to("cpu").parameters().values()] == [1, 5, 6, 2, 3, 4, 1]


def test_what_is_shared_is_listed_once_and_circles_end():
    shared = parameter(2)
    layer = made(a=shared, b=[shared], c={"d": shared})
    layer.me, layer.circle = layer, [layer]
    layer.circle.append(layer.circle)
    assert list(layer.parameters()) == ["a"] and len(list(layer.layers())) == 1


def test_what_forward_saved_is_not_part_of_a_layer():
    layer = made(a=parameter(2))
    layer.save_for_backward((parameter(3), made(b=parameter(4))))
    assert list(layer.parameters()) == ["a"]


def test_what_has_no_order_or_no_name_of_its_own_is_refused():
    with pytest.raises(TypeError, match="ws is a set, which has no order"):
        made(ws={parameter(2)}).parameters()
    with pytest.raises(ValueError, match="two different parameters are named ws.1"):
        made(ws={1: parameter(2), "1": parameter(2)}).parameters()


@pytest.mark.parametrize("value", [np.arange(3), np.ones(2, bool), np.ones(2, complex), "text", None, np.array(["a"])])
def test_a_parameter_holds_floats(value):
    with pytest.raises(TypeError, match="a Parameter holds an array of floats, not"):
        minillm.Parameter(value)


def test_numbers_and_lists_become_arrays():
    for value, shape in ((2.0, ()), (np.float64(2), ()), ([1.0, 2.0], (2,)), (3, ())):
        made = minillm.Parameter(value)
        assert isinstance(made.value, np.ndarray) and made.value.shape == shape and made.value.dtype == np.float64
    made = minillm.Parameter(2.0)
    made.add_grad(np.float64(1))
    made.add_grad(2.0)
    assert made.grad == 3.0


def test_shared_memory_is_found_by_name():
    base = np.zeros(12)
    assert memory_conflict({"a": base[:6], "b": base[6:], "c": np.zeros(3), "d": np.zeros(())}) == ""
    assert memory_conflict({"even": base[::2], "odd": base[1::2]}) == ""
    assert memory_conflict({"a": base[:7], "c": np.zeros(3), "b": base[6:]}).startswith("a and b share memory")
    assert "the elements of w share memory" in memory_conflict({"w": np.broadcast_to(np.zeros(3), (2, 3))})
