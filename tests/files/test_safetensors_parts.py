"""A safetensors file written in parts is the one that the library safetensors writes; memory is bounded."""

import errno
import os
import tracemalloc

import numpy as np
import pytest
from planting import planted

from minillm.backend.arrays import to_device
from minillm.files import safetensors_parts
from minillm.files.atomic import save_tensors
from minillm.files.safetensors_file import read_header
from minillm.files.safetensors_parts import TYPES, Part, Plan, Spec, blocks, read_parts

RNG = np.random.default_rng(0)
NAMES = {"z": (20, 30), "m.é": (3,), 'q"\\\n\x01\x7f': (7,), "empty": (0, 4), "B": (3, 5, 2), "number": ()}
TENSORS = {name: RNG.normal(size=shape).astype("f4") for name, shape in NAMES.items()}
TENSORS |= {f"of {dtype}": RNG.integers(0, 2, 5).astype(dtype) for dtype in TYPES}
LAYOUTS = {
    "C order": lambda array: array,
    "Fortran order": lambda array: np.array(array, order="F"),
    "every second row": lambda array: np.repeat(array, 2, axis=0)[::2] if array.ndim else array,
    "backwards": lambda array: array[::-1].copy()[::-1] if array.ndim else array,
    "simulated device": lambda array: to_device(array, "cudasim"),
}


def written(path, tensors, metadata, module=safetensors_parts, cut=3):
    """Each tensor in up to `cut` parts, in an order of no meaning."""
    plan = module.Plan({name: module.Spec.of(array) for name, array in tensors.items()}, metadata)
    plan.create(path)
    for number in reversed(range(cut)):
        parts = []
        for name, array in tensors.items():
            bounds = [len(array) * i // cut if array.ndim else i // cut for i in range(cut + 1)]
            part = array[bounds[number] : bounds[number + 1]] if array.ndim else array
            if array.ndim or number == cut - 1:
                start = bounds[number] * (array.size // max(1, len(array))) if array.ndim else 0
                parts.append(module.Part(name, start, part))
        plan.write(path, parts)
    return path.read_bytes()


def of_library(path, tensors, metadata):
    save_tensors(
        {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}, path, metadata
    )
    return path.read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [1, 100, safetensors_parts.BLOCK])
def test_the_bytes_are_those_of_the_library(tmp_path, monkeypatch, layout, block):
    monkeypatch.setattr(safetensors_parts, "BLOCK", block)
    expected = of_library(tmp_path / "expected", TENSORS, {"step": "12é\n"})
    tensors = {name: LAYOUTS[layout](array) for name, array in TENSORS.items()}
    assert written(tmp_path / "found", tensors, {"step": "12é\n"}) == expected
    stored = read_header(tmp_path / "found")
    targets = {name: LAYOUTS[layout](np.zeros_like(array)) for name, array in TENSORS.items()}
    read_parts(tmp_path / "found", [(stored[name].position, target) for name, target in targets.items()])
    for name, target in targets.items():
        assert (target == TENSORS[name]).all() and type(target) is type(tensors[name])


@pytest.mark.parametrize("count", range(12))
def test_headers_of_any_length(tmp_path, count):
    tensors = {"x" * count + "a": np.ones(3), "b": np.ones(2, np.float32)}
    assert written(tmp_path / "found", tensors, {"format": "pt"}) == of_library(
        tmp_path / "a", tensors, {"format": "pt"}
    )


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("part.start * ITEM_BYTES[spec.dtype]", "(part.start + 1) * ITEM_BYTES[spec.dtype]"),
        ("-len(text) % 8", "-len(text) % 16"),
        (", ensure_ascii=False", ""),
        ("(ORDER.index(item[1].dtype), item[0])", "item[0]"),
        ("position += block.nbytes", "pass"),
        ("rows = BLOCK // array[0].nbytes", "rows = 2 * BLOCK // array[0].nbytes"),
        ("elif array.flags.c_contiguous", "elif True"),
        ("contiguous(to_host(block))", "to_host(block).ravel('A')"),
    ],
)
def test_faults_in_the_layout_are_noticed(tmp_path, monkeypatch, right, wrong):
    metadata = {"step": "1" * 9}
    faulty = planted(safetensors_parts, right, wrong)
    faulty.BLOCK = 1000
    tensors = {name: np.array(array, order="F") for name, array in TENSORS.items()} | {"long": np.arange(100.0)}
    expected = of_library(tmp_path / "expected", tensors, metadata)
    if "rows" in right:  # the bytes are right, but the blocks grow without end
        with pytest.raises(RecursionError):
            list(faulty.blocks(tensors["z"]))
    elif "elif" in right:  # the bytes are right, but the whole tensor was copied
        monkeypatch.setattr(safetensors_parts, "BLOCK", 1000)
        assert all(np.shares_memory(block, tensors["z"]) for block in blocks(tensors["z"]))
        assert not any(np.shares_memory(block, tensors["z"]) for block in faulty.blocks(tensors["z"]))
    else:
        assert written(tmp_path / "found", tensors, metadata, faulty, cut=1) != expected


@pytest.mark.parametrize("layout", ["C order", "Fortran order", "simulated device"])
def test_memory_is_bounded(tmp_path, monkeypatch, layout):
    """An array that lies as the file does is not copied at all; any other, a block at a time."""
    block = 1 << 20
    monkeypatch.setattr(safetensors_parts, "BLOCK", block)
    array = LAYOUTS[layout](np.ones((1000, 4 * 1024), np.float32))  # 16 MiB
    plan = Plan({"x": Spec.of(array)}, {})
    tracemalloc.start()
    try:
        plan.create(tmp_path / "x")
        plan.write(tmp_path / "x", [Part("x", 0, array)])
        written_with = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        array[...] = 0
        read_parts(tmp_path / "x", [(len(plan.header), array)])
        read_with = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (array == 1).all()
    limit = (1 << 16) + (0 if layout == "C order" else block)
    assert written_with < limit and read_with < limit + (block if layout == "simulated device" else 0)


def test_a_full_disk_is_noticed_before_any_number_is_written(tmp_path, monkeypatch):
    plan = Plan({"x": Spec((1000,), "F32")}, {})

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        plan.create(tmp_path / "x")
    assert caught.value.filename == str(tmp_path / "x")


@pytest.mark.parametrize("missing", ["call", errno.EOPNOTSUPP, errno.EINVAL])
def test_where_room_cannot_be_reserved_the_file_is_made_all_the_same(tmp_path, monkeypatch, missing):
    def cannot(*arguments):
        raise OSError(missing, os.strerror(missing))

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    if missing == "call":
        monkeypatch.delattr(os, "posix_fallocate")
    expected = of_library(tmp_path / "expected", TENSORS, {"step": "1"})
    assert written(tmp_path / "found", TENSORS, {"step": "1"}) == expected


@pytest.mark.parametrize(
    "part",
    [
        Part("x", 8, np.ones(3, "f4")),
        Part("x", -1, np.ones(3, "f4")),
        Part("x", 0, np.ones(3)),
        Part("x", 0, np.ones(3, "c8")),
    ],
)
def test_a_part_of_no_tensor_is_refused(tmp_path, part):
    plan = Plan({"x": Spec((10,), "F32")}, {})
    with pytest.raises(ValueError, match="are no part of x, F32\\(10,\\)"):
        plan.position(part)


def test_a_file_that_was_cut_off_while_it_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"1234567")
    with pytest.raises(OSError, match="the file ends before its last tensor") as caught:
        read_parts(tmp_path / "x", [(0, np.ones(3, "f4"))])
    assert caught.value.filename == str(tmp_path / "x")


def test_types_that_the_format_has_not():
    with pytest.raises(TypeError, match="complex64 cannot be saved"):
        Spec.of(np.ones(3, "c8"))
