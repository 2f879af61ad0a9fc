"""Every kernel compiles to machine code for every architecture, spills nothing, and stays below its ceilings."""

import os
from itertools import product
from pathlib import Path

import pytest

import minillm.kernels
from minillm.errors import MissingExtra
from minillm.kernels import nvrtc
from minillm.kernels.launch import CudaFile, ResourceLimit

FILES = nvrtc.cuda_files()


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """Where NVRTC is missing the tests are skipped; in continuous integration (CI=true) that is a failure."""
    try:
        nvrtc.version()
    except MissingExtra as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


LARGE = {
    "attention/flash.cu",
    "attention/flash_tensor_cores.cu",
    "attention/online.cu",
}  # seconds for each architecture
FIRST = 90  # the one that is tried in the plain run


def files_and_architectures():
    """Every file for every architecture: of the large ones all but one are slow."""
    for name, arch in product(FILES, nvrtc.ARCHITECTURES):
        yield pytest.param(name, arch, marks=pytest.mark.slow if name in LARGE and arch != FIRST else ())


@pytest.mark.parametrize("name, arch", list(files_and_architectures()))
def test_compiles_without_spills_and_below_its_ceilings(name, arch):
    files = [file for file in FILES[name] if file.minimum_arch <= arch]
    for file in files:
        for instance, usage in nvrtc.compile_for(arch, file).items():
            ceiling = file.instances[instance]
            assert usage.spill_stores == usage.spill_loads == 0, f"{instance}: {usage}"
            assert usage.registers <= ceiling.registers, f"{instance}: {usage}"
            assert usage.shared <= ceiling.shared, f"{instance}: {usage}"
            if arch < ceiling.smallest_arch:
                continue
            assert usage.shared + ceiling.dynamic_shared <= nvrtc.MAX_SHARED[arch], f"{instance}: {usage}"


@pytest.mark.parametrize("arch", nvrtc.MAX_SHARED)
def test_every_declared_instance_fits_into_the_shared_memory_of_a_block(arch):
    for file in (file for files in FILES.values() for file in files if file.minimum_arch <= arch):
        for instance, ceiling in file.instances.items():
            if ceiling.smallest_arch <= arch:
                assert ceiling.shared + ceiling.dynamic_shared <= nvrtc.MAX_SHARED[arch], instance


def test_every_cuda_file_is_declared_by_a_launcher():
    folder = Path(minillm.kernels.__path__[0])
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*.cu")}
    assert {name for name in on_disk if not name.startswith(("simulator", "exercises"))} == set(FILES)


def _file(tmp_path, text, instances, **settings):
    (tmp_path / "planted.cu").write_text(text)
    return CudaFile(str(tmp_path / "launcher.py"), "planted.cu", instances, **settings)


def test_an_error_names_the_file_and_the_line(tmp_path):
    file = _file(tmp_path, "\n__global__ void f(float* x) { x[0] = y; }\n", {"f": ResourceLimit(32)})
    with pytest.raises(nvrtc.CompileError, match=r'planted\.cu\(2\).*"y" is undefined'):
        nvrtc.compile_for(90, file)


def test_a_spill_is_seen(tmp_path):
    text = """
    __global__ void __launch_bounds__(1024, 2) f(float* x) {
        float kept[64];
        for (int i = 0; i < 64; ++i) kept[i] = x[i * 1024 + threadIdx.x];
        __syncthreads();
        for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = kept[63 - i] * kept[(i * 7) % 64];
    }
    """
    usage = nvrtc.compile_for(90, _file(tmp_path, text, {"f": ResourceLimit(32)}))["f"]
    assert usage.spill_stores > 0 and usage.spill_loads > 0


def test_shared_memory_and_template_instances_are_counted(tmp_path):
    text = """
    template <int N> __global__ void f(float* x) {
        __shared__ float s[N];
        s[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        x[threadIdx.x] = s[N - 1 - threadIdx.x];
    }
    """
    usage = nvrtc.compile_for(75, _file(tmp_path, text, {"f<32>": ResourceLimit(32), "f<64>": ResourceLimit(32)}))
    assert (usage["f<32>"].shared, usage["f<64>"].shared) == (128, 256)
