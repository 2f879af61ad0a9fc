"""The headers that a source includes: the author's own, ours, and those that are empty here."""

from __future__ import annotations

import re
from pathlib import Path

from minillm.kernels.simulator.dialect import with_alignment_first
from minillm.kernels.simulator.host_code import HOST, without_host_code
from minillm.kernels.simulator.ptx import STATEMENT, with_ptx_as_cpp
from minillm.kernels.simulator.source import DEVICE

HERE = Path(__file__).resolve().parent
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">\n]+)[">]', re.MULTILINE)
# Headers of CUDA's whose content is always there, or belongs to the host: they are empty here.
EMPTY = """
cuda.h cuda_runtime.h cuda_runtime_api.h cuda_device_runtime_api.h cuda_profiler_api.h device_launch_parameters.h
device_functions.h device_atomic_functions.h math_functions.h builtin_types.h vector_types.h vector_functions.h
driver_types.h host_defines.h common_functions.h channel_descriptor.h sm_20_atomic_functions.h sm_20_intrinsics.h
sm_30_intrinsics.h sm_32_intrinsics.h sm_35_intrinsics.h sm_60_atomic_functions.h sm_61_intrinsics.h nvrtc.h cudaProfiler.h
library_types.h book.h cuda_gl_interop.h cuda_occupancy.h cuda_awbarrier_primitives.h cuda_fp8.h
cooperative_groups/reduce.h cooperative_groups/scan.h cooperative_groups/memcpy_async.h
""".split()
# Those of NVIDIA's cuda-samples: they are the host's even where they are at hand.
SAMPLES = (
    "helper_cuda.h helper_functions.h helper_string.h helper_timer.h helper_image.h exception.h helper_gl.h".split()
)
HOST_LIBRARIES = re.compile(
    r"(?:thrust|cub|nvtx3|cuda/std|torch|ATen|c10|pybind11)/.*|mpi\.h|(?:cublas|cusparse|cufft|cusolver|cudnn|nccl|nvToolsExt|nvml|nvrtc)\w*\.h|curand\.h"
)


FLOATS_OF_HOST = re.compile(r"cublas\w*\.h|cudnn\w*\.h")  # they include cuda_fp16.h and cuda_bf16.h


class Included:
    """What a source includes, directly and through other headers, as far as files can be found."""

    def __init__(self, text: str, folders: list[Path]):
        """folders: where headers are looked for, in order."""
        self.text = text
        self.folders = folders
        self.contents: dict[Path, bytes] = {}
        self._read(text, folders)

    @property
    def texts(self) -> list[str]:
        """The source's own and those of the headers."""
        return [self.text, *(each.decode("utf-8", "replace") for each in self.contents.values())]

    @property
    def own_texts(self) -> list[str]:
        """Those of the author's headers."""
        return [each.decode("utf-8", "replace") for each in self._own.values()]

    @property
    def _own(self) -> dict[Path, bytes]:
        return {file: content for file, content in self.contents.items() if not _is_delivered(file)}

    @property
    def names(self) -> set[str]:
        """The headers' names, with those that a header of NVIDIA's brings along."""
        wanted = {name for text in self.texts for name in INCLUDE.findall(text)}
        return wanted | ({"cuda_fp16.h", "cuda_bf16.h"} if any(map(FLOATS_OF_HOST.fullmatch, wanted)) else set())

    @property
    def has_ptx(self) -> bool:
        """Whether there is inline PTX that becomes C++."""
        return with_ptx_as_cpp(self.text) != self.text or any(map(_has_ptx, self.texts[1:]))

    def write_empty(self, folder: Path, searched: list[Path]) -> None:
        """Those that are empty here, but for what the folders `searched` have."""
        for name in self.names:
            is_empty = name in EMPTY or HOST_LIBRARIES.fullmatch(name)
            if name in SAMPLES or (is_empty and not any((each / name).is_file() for each in searched)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text("", encoding="utf-8")

    def write_device_code(self, folder: Path, text: str) -> str:
        """The text with copies in place of the author's headers, if one of those has inline PTX or
        parts that only the host can compile; both are gone from the copies.
        """
        plain = {file: content.decode("utf-8", "replace") for file, content in self._own.items()}
        if not any(_has_ptx(each) or _has_host_code(each) for each in plain.values()):
            return text
        copies = {file: folder / f"{number}-{file.name}" for number, file in enumerate(plain)}
        words = {file: set(re.findall(r"\w+", each)) for file, each in {**plain, Path(): text}.items()}
        for file, content in plain.items():
            elsewhere = set().union(*(each for other, each in words.items() if other != file))
            device = with_ptx_as_cpp(with_alignment_first(without_host_code(content, elsewhere)[0]))
            lines = f'#line 1 "{file}"\n{self._renamed(device, [file.parent, *self.folders], copies)}'
            copies[file].write_text(lines, encoding="utf-8")
        return self._renamed(text, self.folders, copies)

    def _read(self, text: str, folders: list[Path]) -> None:
        for name in INCLUDE.findall(text):
            file = None if name in SAMPLES else _found(name, folders)
            if file and file not in self.contents:
                self.contents[file] = file.read_bytes()
                self._read(self.contents[file].decode("utf-8", "replace"), [file.parent, *folders])

    @staticmethod
    def _renamed(text: str, folders: list[Path], copies: dict[Path, Path]) -> str:
        def include(found):
            copy = copies.get(_found(found[1], folders))
            return f'#include "{copy}"' if copy else found[0]

        return INCLUDE.sub(include, text)


def _is_delivered(file: Path) -> bool:
    """Whether a header comes with the simulator or with CuPy: these compile as they are, and are
    compiled once for all sources.
    """
    return file.is_relative_to(HERE) or "/cupy/_core/include/" in file.as_posix()


def _found(name: str, folders: list[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _has_ptx(text: str) -> bool:
    """A header that has a way of its own for the simulator is left as it is."""
    return "MINILLM_SIMULATOR" not in text and bool(STATEMENT.search(text))


def _has_host_code(text: str) -> bool:
    return (
        "MINILLM_SIMULATOR" not in text
        and bool(HOST.search(text))
        and bool(without_host_code(text)[1] or DEVICE.search(text))
    )
