"""The stand-in for a GPU before it is attached: what it is made from, its errors, its machine code,
its C.
"""

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.errors import MissingExtra, UserError
from minillm.kernels.standin import attach, build, installation, jump, lapack, libraries, modules, passes, signatures
from minillm.kernels.standin.elf import Function, SharedLibrary

TARGET = 0x1122334455667788


_REMEMBERED = (
    installation.cupy_package,
    installation.cuda_major,
    installation.compiler,
    installation.cuda_headers,
)


@pytest.fixture(autouse=True)
def forget():
    """What is remembered about the installation is asked for anew.

    The functions are those of the import: a test may still have another one in their place here.
    """
    for function in _REMEMBERED:
        function.cache_clear()
    yield
    for function in _REMEMBERED:
        function.cache_clear()


@pytest.fixture
def without_cupy_in_memory(monkeypatch):
    """`check` gets beyond its first questions whatever this process has imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupy_backends")]:
        monkeypatch.delitem(sys.modules, name)


def installed(monkeypatch, **versions: str) -> None:
    """The distributions that are installed: cupy_cuda13x="14.2.0"."""

    def version(name: str) -> str:
        if name.replace("-", "_") not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name.replace("-", "_")]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: object())


def says(*parts: str):
    """A UserError of one line with these parts in their order."""
    return pytest.raises(UserError, match=r"\A[^\n]*" + "[^\n]*".join(parts) + r"[^\n]*\Z")


class TestWhatIsMissing:
    @pytest.mark.parametrize("system", ["Darwin", "Windows"])
    def test_another_system(self, monkeypatch, system):
        monkeypatch.setattr(platform, "system", lambda: system)
        with says("is for Linux", system, "cudasim"):
            installation.check()

    def test_another_machine(self, monkeypatch):
        monkeypatch.setattr(platform, "system", lambda: "Linux")
        monkeypatch.setattr(platform, "machine", lambda: "riscv64")
        with says("x86-64 and arm64", "riscv64", "cudasim"):
            installation.check()

    def test_cupy_imported_already(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", object())
        with says("before CuPy is imported", "attach"):
            installation.check()

    def test_no_compiler(self, monkeypatch, without_cupy_in_memory):
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with says("no C compiler", "install gcc"):
            installation.check()

    @pytest.mark.parametrize("folder", ["file", "file/below"])
    def test_no_folder_for_what_is_compiled(self, monkeypatch, tmp_path, folder):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("MINILLM_CACHE", str(tmp_path / folder))
        with says("cannot be kept in", folder, "name a folder in MINILLM_CACHE"):
            installation.cache_folder()

    def test_no_cupy(self, monkeypatch, without_cupy_in_memory):
        installed(monkeypatch)
        with pytest.raises(MissingExtra, match=r'needs CuPy.*pip install "minillm\[standin\]"'):
            installation.check()

    def test_several_cupys(self, monkeypatch, without_cupy_in_memory):
        installed(monkeypatch, cupy_cuda12x="14.2.0", cupy_cuda13x="14.1.0")
        with says("cupy-cuda12x 14.2.0 and cupy-cuda13x 14.1.0", "pip uninstall cupy-cuda12x cupy-cuda13x"):
            installation.check()

    @pytest.mark.parametrize("version", ["12.3.0", "13.5.1", "14.3.0", "15.0.0a1"])
    def test_another_version(self, monkeypatch, without_cupy_in_memory, version):
        installed(monkeypatch, cupy_cuda13x=version)
        with says("CuPy 13.6 to 14.2", f"cupy-cuda13x {version}", "pip install", "MINILLM_STANDIN_ANY_CUPY"):
            installation.check()

    @pytest.mark.parametrize("name", ["cupy", "cupy_cuda11x", "cupy_rocm_7_0"])
    def test_another_distribution(self, monkeypatch, without_cupy_in_memory, name):
        installed(monkeypatch, **{name: "14.2.0"})
        with says("cupy-cuda12x and cupy-cuda13x", name.replace("_", "-")):
            installation.check()

    @pytest.mark.parametrize("name,extra", [("cupy_cuda12x", "standin-cuda12"), ("cupy_cuda13x", "standin")])
    def test_no_headers(self, monkeypatch, without_cupy_in_memory, name, extra, tmp_path):
        installed(monkeypatch, **{name: "14.2.0"})
        monkeypatch.setattr(installation, "_nvidia_folders", lambda part: [])
        monkeypatch.setattr(installation, "_TOOLKIT", str(tmp_path))
        monkeypatch.setenv("CUDA_PATH", str(tmp_path))
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        with pytest.raises(MissingExtra, match=rf'headers.*pip install "minillm\[{extra}\]"'):
            installation.check()

    def test_headers_of_another_cuda(self, monkeypatch, without_cupy_in_memory, tmp_path):
        (tmp_path / "include").mkdir()
        (tmp_path / "include" / "driver_types.h").touch()
        (tmp_path / "include" / "cuda_runtime_api.h").write_text("#define CUDART_VERSION  12090\n")
        monkeypatch.setattr(installation, "_nvidia_folders", lambda part: [])
        monkeypatch.setattr(installation, "_TOOLKIT", str(tmp_path))
        monkeypatch.setenv("CUDA_PATH", str(tmp_path))
        installed(monkeypatch, cupy_cuda12x="14.2.0")
        assert installation.cuda_headers() == tmp_path / "include"
        installation.cupy_package.cache_clear()
        installation.cuda_major.cache_clear()
        installation.cuda_headers.cache_clear()
        installed(monkeypatch, cupy_cuda13x="14.2.0")
        with pytest.raises(MissingExtra, match="CUDA 13's headers"):
            installation.cuda_headers()

    def test_no_nvrtc(self, monkeypatch, without_cupy_in_memory):
        """The wheel's own finder ends in a traceback of thirty lines."""
        from cuda import pathfinder

        def not_found(name):
            raise pathfinder.DynamicLibNotFoundError(f"a very\nlong\nstory about {name}")

        def no_library(name):
            raise OSError(name)

        installed(monkeypatch, cupy_cuda13x="14.2.0")
        monkeypatch.setattr(installation, "_nvidia_folders", lambda part: [])
        monkeypatch.setattr(installation, "cuda_headers", lambda: Path("/"))
        monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", not_found)
        monkeypatch.setattr(installation.ctypes, "CDLL", no_library)
        with pytest.raises(MissingExtra, match=r'\A.*NVRTC \(libnvrtc.so.13\).*pip install "minillm\[standin\]"\Z'):
            installation.check()

    def test_no_ml_dtypes(self, monkeypatch, without_cupy_in_memory):
        installed(monkeypatch, cupy_cuda13x="14.2.0")
        monkeypatch.setattr(installation, "cuda_headers", lambda: Path("/"))
        monkeypatch.setattr(installation, "nvrtc", lambda: None)
        monkeypatch.setattr(
            installation.importlib.util, "find_spec", lambda name: None if name == "ml_dtypes" else object()
        )
        with pytest.raises(MissingExtra, match=r'needs ml_dtypes.*minillm\[standin\]"'):
            installation.check()

    def test_a_kernel_that_forbids_it(self):
        """mprotect fails for a page that is not there, as it does where SELinux forbids it."""
        with says("mprotect: ", "SELinux"):
            with jump.Jumps(0x1000, 0x1010):
                pass

    def test_a_capability_that_no_gpu_has(self):
        with says("capability 9.9", "9.0"):
            attach.set_capability("9.9")

    def test_a_numpy_with_another_blas(self, monkeypatch):
        monkeypatch.setattr(lapack, "_NAMES", (("mkl_{}", 8),))
        lapack._found.cache_clear()
        with pytest.raises(NotImplementedError, match="LAPACK's sgetrf is not in this NumPy.*pip install"):
            lapack._found("sgetrf")
        lapack._found.cache_clear()


class TestJump:
    def test_x86(self):
        assert jump.machine_code(TARGET, "x86_64") == bytes.fromhex("48b8 8877665544332211 ffe0")

    def test_arm64(self):
        """The fields of LDR (literal, 64 bits) and BR: Arm Architecture Reference Manual, C6.2."""
        code = jump.machine_code(TARGET, "aarch64")
        load, branch = (int.from_bytes(code[i : i + 4], "little") for i in (0, 4))
        assert load >> 24 == 0b01011000 and load & 31 == 16
        assert (load >> 5 & 0x7FFFF) * 4 == 8, "the address lies eight bytes behind the instruction"
        assert branch & 0xFFFFFC1F == 0xD61F0000 and branch >> 5 & 31 == 16
        assert code[8:] == TARGET.to_bytes(8, "little")

    @pytest.mark.parametrize(
        "machine,tool,options,lines",
        [
            ("x86_64", "objdump", ["-m", "i386:x86-64"], ["movabs $0x1122334455667788,%rax", "jmp *%rax"]),
            ("aarch64", "aarch64-linux-gnu-objdump", ["-m", "aarch64"], ["ldr x16, 0x8", "br x16"]),
        ],
    )
    def test_disassembled(self, tmp_path, machine, tool, options, lines):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
        (tmp_path / "code").write_bytes(jump.machine_code(TARGET, machine))
        shown = subprocess.run(
            [tool, "-D", "-b", "binary", *options, tmp_path / "code"], capture_output=True, text=True, check=True
        ).stdout
        found = [" ".join(line.split("\t")[2:]).split() for line in shown.splitlines() if line.count("\t") >= 2]
        assert [" ".join(words) for words in found][: len(lines)] == lines

    def test_a_machine_that_is_not_known(self):
        with says("x86-64 and arm64", "s390x"):
            jump.machine_code(TARGET, "s390x")


class TestCode:
    def test_the_c_has_no_warnings(self, tmp_path):
        """Also of the functions that are written for the installed CuPy, all of them."""
        if shutil.which("gcc") is None:
            pytest.skip("no gcc")
        try:
            headers = installation.cuda_headers()
        except (MissingExtra, UserError) as error:
            pytest.skip(str(error))
        tables = signatures.CUBLAS, signatures.CURAND, signatures.CUSOLVER
        written = [signatures.c_code(f, 13) for table in tables for f in signatures.functions(table).values()]
        (tmp_path / "written.c").write_text('#include "calls.h"\n' + "".join(written))
        flags = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-DCUDA_VERSION_OF_WHEEL=13000", f"-I{build.NATIVE}"]
        flags += [f"-isystem{headers}", f"-isystem{build.NATIVE}"]
        sources = sorted(map(str, build.NATIVE.glob("*.c")))
        result = subprocess.run(["gcc", *flags, *sources, tmp_path / "written.c"], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")

    def test_structures_are_those_of_the_c(self, tmp_path):
        """ctypes' copies of Launch, Product and Call have the sizes that the C compiler gives."""
        if shutil.which("gcc") is None:
            pytest.skip("no gcc")
        sizes = {}
        for name, file in (("Launch", "driver.c"), ("Product", "cublas.c"), ("Call", "calls.h"), ("Handle", "calls.h")):
            text = (build.NATIVE / file).read_text()
            struct = text[: text.index(f"}} {name};")].rpartition("typedef struct {")[2]
            sizes[name] = f"typedef struct {{{struct}}} {name};"
        program = (
            "#include <stdio.h>\ntypedef union { long long i; void* a; double r; unsigned char b[16]; } Slot;\n"
            "enum { MAX_SLOTS = 24 };\ntypedef struct { unsigned offset, size; } Parameter;\n"
            + "\n".join(sizes.values())
            + '\nint main(void) { printf("%zu %zu %zu %zu", sizeof(Launch), sizeof(Product), sizeof(Call), sizeof(Handle)); }'
        )
        (tmp_path / "sizes.c").write_text(program)
        subprocess.run(["gcc", "-o", tmp_path / "sizes", tmp_path / "sizes.c"], check=True)
        shown = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True, check=True).stdout
        import ctypes

        from minillm.kernels.standin import calls

        expected = [ctypes.sizeof(kind) for kind in (libraries.Launch, libraries.Product, libraries.Call)] + [
            calls._HANDLE_BYTES
        ]
        assert [int(word) for word in shown.split()] == expected

    def test_symbols_of_a_library(self, tmp_path):
        if shutil.which("gcc") is None:
            pytest.skip("no gcc")
        (tmp_path / "a.c").write_text(
            "int taken(void);\nstatic int hidden(void) { return 1; }\nint shown(void) { return hidden() + taken(); }\n"
        )
        (tmp_path / "b.c").write_text("int taken(void) { return 2; }\n")
        (tmp_path / "b.map").write_text("libb.so.7 { global: *; };\n")
        shared = ["gcc", "-O0", "-shared", "-fPIC", "-o"]
        library = tmp_path / "libb.so.7"
        subprocess.run(
            [*shared, library, tmp_path / "b.c", "-Wl,-soname=libb.so.7", f"-Wl,--version-script={tmp_path}/b.map"],
            check=True,
        )
        subprocess.run([*shared, tmp_path / "a.so", tmp_path / "a.c", library], check=True)
        found = SharedLibrary(tmp_path / "a.so")
        functions = found.functions()
        assert {"shown", "hidden"} <= functions.keys() and "taken" not in functions
        assert isinstance(functions["shown"], Function) and functions["shown"].size > 0
        assert found.needed()["taken"] == "libb.so.7"
        with pytest.raises(ValueError, match="no 64-bit ELF file"):
            SharedLibrary(tmp_path / "a.c")

    def test_every_function_of_the_tables_has_its_python(self):
        from minillm.kernels.standin import blas, random, solver

        for name in signatures.functions(signatures.CUBLAS):
            assert blas._WITHOUT_TYPE[name.removesuffix("_v2")] in blas._ROUTINES
        for name in signatures.functions(signatures.CURAND):
            assert name.removeprefix("curandGenerate") in random._DISTRIBUTIONS
        for name in signatures.functions(signatures.CUSOLVER):
            routine = name.removeprefix("cusolverDn").lstrip("SDCZ")
            assert routine.endswith("_bufferSize") or routine in solver._ROUTINES, name

    def test_what_is_refused_is_said_in_one_line(self):
        for _, what, instead in modules.REFUSED.values():
            line = modules.refusal(what, instead)
            assert what in line and instead in line and "\n" not in line


class TestPasses:
    ARRAY = (8 * b"\1") + (12).to_bytes(8, "little")

    def test_bytes_of_a_copy(self):
        array = self.ARRAY + (12).to_bytes(8, "little") + (4).to_bytes(8, "little")
        loop = (12).to_bytes(8, "little") * 2 + bytes(8)
        assert passes.bytes_moved("cupy_copy__float32_bfloat16", (array, array, loop)) == 12 * 4 + 12 * 2
        assert passes.elements((array, array, loop)) == 12

    def test_what_is_broadcast_counts_once(self):
        row = self.ARRAY + (3).to_bytes(8, "little") + (4).to_bytes(8, "little") + bytes(8) + (4).to_bytes(8, "little")
        assert passes.bytes_moved("cupy_negative__float32", (row,)) == 4 * 4

    @pytest.mark.parametrize(
        "name,sizes",
        [
            ("cupy_add__float32_float_float32", [4, 4]),
            ("cupy_greater__bfloat16_bfloat16_bool", [2, 2, 1]),
            ("cupy_conjugate__complex64_complex128", [8, 16]),
            ("cupy_take", None),
            ("cupy_strange__thing8", None),
        ],
    )
    def test_widths_from_a_name(self, name, sizes):
        assert passes.itemsizes(name) == sizes
