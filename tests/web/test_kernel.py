"""The view Kernel: numbers of minillm simulate, threads, faults, and kernels that never end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from kernel_testing import needs_compiler
from typer.testing import CliRunner

pytest.importorskip("starlette", reason="the page needs starlette: pip install -e .[test-web]")

from minillm.cli.app import app
from minillm.errors import UserError
from minillm.web.play import kernel, kernel_apart
from minillm.web.play.kernel_apart import AT_ONCE, PRINTED
from minillm.web.play.kernel_examples import EXAMPLES

BY_NAME = {each["name"]: {key: each[key] for key in each if key != "title"} for each in EXAMPLES}
ENDLESS = "__global__ void endless(int* x) {\n    for (volatile int i = 0;;) i = i + 1;\n}\n"
CRASH = """#include <signal.h>
#include <unistd.h>
__global__ void crash(int* x) {
    printf("before");
    kill(getpid(), SIGKILL);
}
"""
UNKNOWN = "__global__ void f(int* x) {\n    x[0] = 1;\n    x[1] = wrong;\n}\n"
ONE = ["int32[1]"]


@pytest.fixture(autouse=True)
def simulator_there():
    needs_compiler()


def last(**arguments):
    *_, event = kernel.run(None, arguments)
    return event


# ------------------------------------------------------------------------------------------------ the same numbers


def printed_numbers(text):
    """(kernel, file, line, space) -> (actual, ideal), and the totals, from what minillm simulate prints."""
    numbers, totals, place = {}, {}, None
    for row in text.splitlines():
        if found := re.match(r"(\S.*) \((\S+)\)$", row):
            place = found.groups()
        elif found := re.match(r" {0,4}(\d+)(  |$)", row):
            line = int(found[1])
        elif found := re.match(r"[! ] +(global|shared): ([\d,]+) \w+, ideal ([\d,]+)$", row):
            numbers[(*place, line, found[1])] = whole(found[2]), whole(found[3])
        elif found := re.match(r"(global|shared) memory: ([\d,]+)", row):
            totals[found[1]] = whole(found[2])
    return numbers, totals


def whole(text):
    return int(text.replace(",", ""))


def page_numbers(event):
    numbers = {}
    for each in event["kernels"]:
        for file in each["files"]:
            for line, figures in file["lines"].items():
                for cell in figures:
                    key = (each["name"], file["name"], int(line), cell["space"])
                    before = numbers.get(key, (0, 0))
                    numbers[key] = before[0] + cell["actual"], before[1] + cell["ideal"]
    return numbers, {space: total["actual"] for space, total in event["totals"].items()}


def simulate(*arguments):
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)])
    return result.output


@pytest.mark.parametrize("name", ["layer_norm", "gelu", "naive"])
def test_the_numbers_of_our_kernels_are_those_of_simulate(name):
    size = {"time": 20, "width": 32} if name == "naive" else {"rows": 7, "width": 65}
    event = last(kernel=name, size=size)
    text = simulate(name, "--profile", "--size", ",".join(f"{key}={n}" for key, n in size.items()))
    numbers = page_numbers(event)
    assert numbers == printed_numbers(text) and len(numbers[0]) > 4
    assert event["rows"] == [row for row in text.splitlines() if row.startswith(f"{name}:") or "relative error" in row]


@pytest.mark.parametrize("name", ["saxpy", "copy_rows", "transpose"])
def test_the_numbers_of_a_source_are_those_of_simulate(name, tmp_path):
    example = BY_NAME[name]
    path = tmp_path / example["file"]
    path.write_text(example["source"])
    options = [part for text in example["arguments"] for part in ("--arg", text)]
    options += ["--grid", example["grid"], "--block", example["block"], "--expect", example["expect"][0]]
    event = last(**example)
    text = simulate(path, "--profile", *options)
    numbers = page_numbers(event)
    assert numbers == printed_numbers(text) and numbers[0]
    assert "\n".join(event["rows"]) in text and event["well"]


def test_a_fault_is_that_of_simulate(tmp_path):
    example = BY_NAME["total"]
    path = tmp_path / example["file"]
    path.write_text(example["source"])
    options = [part for text in example["arguments"] for part in ("--arg", text)]
    text = simulate(path, "--check", "--block", "64", *options)
    event = last(**example)
    assert event["findings"] == text.replace(f"{tmp_path}/", "").splitlines()[1:]
    (fault,) = event["faults"]
    assert (fault["line"], fault["thread"], fault["other"]["thread"], fault["other"]["line"]) == (9, 1, 0, 9)


FAULTS = {
    "x[threadIdx.x + 30] = 1;": ((31, 0), "out-of-bounds write of argument 0 (x), element 61"),
    "if (threadIdx.x < 7) __syncthreads();": (None, "barrier"),
    "__shared__ int s[32];\n    if (!threadIdx.x) s[0] = 1;\n    x[threadIdx.x] = s[threadIdx.x];": (
        None,
        "uninitialised read of shared memory",
    ),
}


@pytest.mark.parametrize("statement", FAULTS)
def test_other_faults_are_marked_at_their_lines(statement):
    source = f"__global__ void f(int* x) {{\n    {statement}\n}}\n"
    event = last(source=source, arguments=["int32[61]"], mode="check")
    thread, words = FAULTS[statement]
    assert not event["well"] and words in "\n".join(event["findings"])
    fault = event["faults"][0]
    assert fault["line"] == 1 + len(statement.splitlines())
    assert thread is None or (fault["thread"], fault["block"]) == thread


def test_a_fault_in_a_header_of_ours_comes_with_its_source():
    arguments = ["float32[8,32]", *["float32[32]"] * 3, "9", "32"]
    source = '#define ADDENDS 8\n#define COLUMNS 32\n#include "column_sum.cuh"\n'
    event = last(source=source, name="column_sum", block="32,8", arguments=arguments, mode="check")
    (fault,) = event["faults"]
    assert fault["file"] == "column_sum.cuh" and "out-of-bounds read" in fault["text"]
    assert "partials[" in event["headers"]["column_sum.cuh"][fault["line"] - 1]
    assert last(**BY_NAME["total"])["headers"] == {}


def test_blocks_are_numbered_in_any_order():
    source = "__global__ void meet(int* x) {\n    if (blockIdx.x == 1 || blockIdx.x == 3) x[0] = threadIdx.x;\n}\n"
    for order in ("ascending", "descending"):
        event = last(source=source, grid="5", block="1", arguments=ONE, mode="check", order=order)
        (fault,) = event["faults"]
        assert {fault["block"], fault["other"]["block"]} == {1, 3}


# ------------------------------------------------------------------------------------- a process that may go wrong


def test_what_does_not_compile_is_said_with_its_line():
    event = last(source=UNKNOWN, file="mine.cu", arguments=ONE)
    assert (event["event"], event["line"]) == ("refused", 3)
    assert event["text"].startswith("mine.cu:3: wrong is not declared")


def test_an_endless_kernel_is_stopped():
    event = last(source=ENDLESS, arguments=ONE, seconds=1)
    assert event["event"] == "ended" and "had not ended after 1 s and was stopped" in event["text"]


def test_a_process_that_does_not_answer_is_killed():
    event = last(source=CRASH.replace("SIGKILL", "SIGSTOP"), arguments=ONE, seconds=1)
    assert event["event"] == "ended" and "had not ended after 1 s" in event["text"]
    assert kernel_processes() == []


BOMB = "#define A0 +1+1\n" + "".join(f"#define A{n} A{n - 1} A{n - 1}\n" for n in range(1, 26))
TAKES = """#include <sys/mman.h>
__global__ void takes(float* x, const float* y) {
    size_t much = size_t(1) << 32;
    void* there = mmap(nullptr, much, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("malloc %d mmap %d", malloc(much) != nullptr, there != MAP_FAILED);
    for (int i = 0; i < 8; ++i) x[i] = y[i];
}
"""


@pytest.fixture
def little_memory(monkeypatch):
    """What a kernel of the page may fill."""
    monkeypatch.setattr(kernel_apart, "memory_limit", lambda: 600 * 2**20)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(f"{BOMB}__global__ void f(int* x) {{ x[0] = 0 A25; }}", id="macros"),
        pytest.param(
            "__device__ int big[1 << 28] = {1};\n__global__ void f(int* x) { x[0] = big[x[0]]; }", id="a table"
        ),
    ],
)
def test_a_source_that_would_fill_the_memory_is_refused(little_memory, source):
    event = last(source=source, arguments=ONE)
    assert event["event"] == "refused" and event["line"] is None
    assert event["text"].startswith("g++ had no room for this source:")
    assert event["text"].endswith("(a kernel of the page may fill 0.6 GiB)")


def test_a_kernel_that_would_fill_the_memory_is_refused_it(little_memory):
    event = last(source=TAKES, arguments=["float32[8]", "float32[8]"], block="1")
    assert event["event"] == "result" and event["printed"] == "malloc 0 mmap 0"


def test_arrays_that_would_fill_the_memory_are_refused(little_memory):
    """Of each element check mode keeps who touched it last."""
    large = ["float32[8000000]"] * 2
    event = last(source=TAKES, arguments=large, block="1", mode="check")
    assert event["event"] == "refused"
    assert event["text"].startswith("no room for what the simulator keeps of takes: who touched each byte last")
    assert event["text"].endswith("may fill 0.6 GiB): choose smaller arrays, or mode profile")
    assert last(source=TAKES, arguments=large, block="1")["event"] == "result"


def test_a_crash_is_said_and_what_was_printed_kept():
    event = last(source=CRASH, arguments=ONE)
    assert event["event"] == "ended" and "crashed: it ended by SIGKILL" in event["text"]
    assert (
        last(source=CRASH.replace("kill(getpid(), SIGKILL)", "x[0] = 1"), arguments=ONE, block="2")["printed"]
        == "beforebefore"
    )


def test_what_a_kernel_prints_is_bounded():
    source = '__global__ void f(int* x) {\n    for (int i = 0; i < 20000; ++i) printf("line %d\\n", i);\n}\n'
    event = last(source=source, block="1", arguments=ONE)
    assert event["event"] == "result" and event["printed"].startswith("line 0\nline 1\n")
    assert len(event["printed"]) < PRINTED + 100 and "bytes or more" in event["printed"]


def test_the_compiler_is_ended_with_the_run(tmp_path, monkeypatch):
    pid_file, compiler = tmp_path / "pid", tmp_path / "g++"
    compiler.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then exec g++ --version; fi\necho $$ > {pid_file}.new\n'
        f"mv {pid_file}.new {pid_file}\nexec sleep 1000\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path / "cache"))
    run = kernel.run(None, {"source": ENDLESS, "arguments": ONE})
    states = set()
    while not pid_file.exists():
        states.add(next(run)["state"])
    run.close()
    assert states <= {"starting", "compiling"}
    wait_for_end(int(pid_file.read_text()))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and path.name.startswith("tmp")] == []


def test_a_run_ends_with_the_server_that_began_it():
    script = (
        "import sys; from minillm.web.play import kernel_apart\n"
        f"request = dict(mode='profile', order='ascending', seed=0, watch=0, kernel='', source={ENDLESS!r}, file='a.cu',\n"
        "    name='', grid='1', block='1', arguments=['int32[1]'], shared=0, expect=[])\n"
        "with kernel_apart._Process(request) as process:\n"
        "    for event in process.watch(60): print(process.process.pid, event['state'], flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as server:
        for row in server.stdout:
            pid, state = row.split()
            if state == "running":
                break
        os.kill(server.pid, signal.SIGKILL)
    wait_for_end(int(pid))


def wait_for_end(pid):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} still runs")


def kernel_processes():
    """The processes in which this one runs kernels."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"kernel_process" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_only_so_many_run_at_once():
    runs = [kernel.run(None, {"source": ENDLESS, "arguments": ONE}) for _ in range(AT_ONCE + 1)]
    try:
        for run in runs[:-1]:
            next(run)
        with pytest.raises(UserError, match="running already"):
            next(runs[-1])
    finally:
        for run in runs:
            run.close()
    assert last(source=UNKNOWN, arguments=ONE)["event"] == "refused"


# ------------------------------------------------------------------------------------------- what the page may send


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "source is missing"),
        ({"kernel": "nothing"}, 'there is no "nothing"'),
        ({"kernel": "gelu", "size": {"depth": 3}}, "gelu has the sizes rows, width"),
        ({"kernel": "gelu", "size": {"rows": 0}}, "rows is 0: it must be a whole number from 1"),
        ({"kernel": "gelu", "size": {"rows": 60000, "width": 60000}}, "more than the page takes"),
        ({"kernel": "gelu", "mode": "run"}, 'mode: there is no "run"'),
        ({"kernel": "gelu", "seconds": 1000}, "seconds is 1000: it must be a whole number from 1 to 60"),
        ({"source": UNKNOWN, "file": "../a.cu"}, "is no name of a file"),
        ({"source": UNKNOWN, "file": 'a".cu'}, "is no name of a file"),
        ({"source": "x" * 300_000}, "source has 300,000 characters"),
        ({"source": UNKNOWN, "arguments": ["float32[100000,100000]"]}, "10,000,000,000 elements"),
        ({"source": UNKNOWN, "arguments": "float32[3]"}, "arguments must be a list"),
        ({"source": UNKNOWN, "arguments": [3]}, "arguments is 3: it must be a text"),
        ({"source": 3}, "source is 3: it must be a text"),
    ],
)
def test_what_is_no_run_is_refused(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        kernel.run(None, arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "total2"}, "has no kernel total2"),
        ({"grid": "0"}, "--grid 0: write one to three whole numbers"),
        ({"block": "2000"}, "outside CUDA's limits"),
        ({"arguments": []}, "0 arguments given, the kernel takes 2 (x, sum)"),
        ({"arguments": ["float32[64]", "str:3"]}, 'argument "str:3"'),
        ({"expect": ["nothing"]}, '--expect "nothing"'),
    ],
)
def test_what_cannot_be_launched_is_said(change, message):
    event = last(**{**BY_NAME["total"], **change})
    assert event["event"] == "refused" and message in event["text"]


def test_missing_tools_are_said(monkeypatch):
    monkeypatch.setattr(kernel, "compiler_available", lambda: False)
    assert "needs g++" in kernel.listed(None, {})["problem"]
    with pytest.raises(UserError, match="apt install g"):
        kernel.run(None, {"kernel": "gelu"})
    monkeypatch.setattr(kernel.platform, "system", lambda: "Darwin")
    assert "needs Linux" in kernel.problem()


def test_a_wrong_request_is_an_answer_400(play):
    body = json.dumps({"kernel": "nothing"}).encode()
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(urllib.request.Request(f"{play}kernel/run", body, method="POST"))
    with raised.value as answer:
        assert answer.code == 400 and 'no \\"nothing\\"' in answer.read().decode()


# ------------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture
def view(page, play):
    page.goto(f"{play}#kernel")
    page.wait_for_selector("#kernel .lines tbody tr")
    return page


def own(page, name, source=None):
    """Put an example, or a source in its place, into the editor."""
    page.get_by_role("button", name="a source of your own").click()
    title = next(each["title"] for each in EXAMPLES if each["name"] == name)
    page.get_by_label("example").select_option(label=title)
    if source is not None:
        page.get_by_role("textbox", name="Source").fill(source)
        for label, text in (("kernel", ""), ("grid", "1"), ("block", "2")):
            page.locator(".editor").get_by_label(label, exact=True).fill(text)
        page.get_by_label("arguments, one a line").fill("int32[2]")
        page.get_by_label("what arrays should be").fill("")


def run(page):
    page.get_by_role("button", name="Run", exact=True).click()


def ran(page):
    """Wait for the verdict; the text of it."""
    run(page)
    return page.locator("#kernel-verdict").inner_text(timeout=60_000)


def chosen_lanes(page, warp):
    threads = page.locator(f".warp:nth-child({warp + 1}) .thread")
    classes = threads.evaluate_all("cells => cells.map((cell) => cell.className)")
    return [lane for lane, names in enumerate(classes) if "ran" in names.split()]


def test_the_page_shows_simulates_numbers(view):
    view.locator("#kernel-name").select_option("gelu")
    view.get_by_label("rows", exact=True).fill("7")
    view.get_by_label("width").fill("65")
    assert "agrees with NumPy" in ran(view)
    numbers, totals = printed_numbers(simulate("gelu", "--profile", "--size", "rows=7,width=65"))
    found = {}
    for position, title in enumerate(view.locator("#kernel-section option").all_inner_texts()):
        view.locator("#kernel-section").select_option(str(position))
        kernel_name, file = re.match(r"(.*) \((\S+)\):", title).groups()
        for row in view.locator(".lines tbody tr:has(button)").all():
            line = int(row.locator("button").inner_text())
            for space, name in (("global", "sectors"), ("shared", "waves")):
                cell = row.locator(f".of-{name}")
                if cell.count() and cell.inner_text():
                    found[kernel_name, file, line, space] = whole(cell.inner_text().removeprefix("! "))
    assert found == {key: actual for key, (actual, _) in numbers.items()}
    assert f"{totals['global']:,} sectors" in view.locator(".tiles").inner_text()


def test_a_bank_conflict_is_seen_on_the_grid(view):
    own(view, "transpose")
    assert "results as expected" in ran(view)
    detail = view.locator(".lane-detail")
    assert "wavefronts: 32, ideal 1" in detail.inner_text()
    assert chosen_lanes(view, 31) == list(range(32))
    busy = detail.locator("rect.wasted")
    assert busy.count() == 1
    view.get_by_role("button", name="warp 5", exact=True).click()
    assert detail.locator("svg text.on").all_text_contents() == ["32"]
    detail.locator("summary").click()
    assert "tile[37]" in detail.locator("tbody tr:nth-child(2)").inner_text()
    view.get_by_role("button", name="line 5").hover()
    view.get_by_role("button", name="load x").wait_for()


def test_the_lanes_of_a_warp_that_ran_and_another_block(view):
    own(view, "saxpy")
    ran(view)
    view.get_by_role("button", name="line 4").click()
    assert chosen_lanes(view, 0) == list(range(32))
    block = view.locator("#kernel-block")
    block.fill("3")
    block.press("Enter")
    view.locator("#threads-note", has_text="232 of 256").wait_for(timeout=60_000)
    assert chosen_lanes(view, 7) == list(range(8))
    assert view.get_by_role("button", name="line 4").get_attribute("aria-pressed") == "true"


def test_a_race_is_marked_at_its_line_with_both_threads(view):
    own(view, "total")
    assert "faults found: 1" in ran(view)
    marked = view.locator("tr.marked")
    assert marked.count() == 1 and "part[i] += part[i + half]" in marked.inner_text()
    assert "data race: it writes what another thread reads" in view.locator("tr.mark").inner_text()
    faults = {cell.get_attribute("data-thread"): cell.inner_text() for cell in view.locator(".thread.fault").all()}
    assert faults == {"1": "A", "0": "B"}
    assert view.locator(".gutter .bad").inner_text().strip() == "✗9"


def test_an_error_of_the_compiler_is_marked_at_its_line(view):
    own(view, "saxpy", UNKNOWN)
    run(view)
    view.get_by_text("wrong is not declared").first.wait_for(timeout=60_000)
    assert view.locator(".gutter .bad").inner_text().strip() == "✗3"
    assert "x[1] = wrong" in view.locator("tr.marked").inner_text()
    assert "wrong is not declared" in view.get_by_role("alert").inner_text()
    view.get_by_role("textbox", name="Source").fill(UNKNOWN.replace("wrong", "2"))
    assert view.locator(".gutter .bad").count() == 0
    assert "ran" in ran(view)
    assert view.get_by_role("alert").inner_text() == ""


def test_an_endless_kernel_and_a_crash_are_said_and_the_page_goes_on(view):
    own(view, "saxpy", ENDLESS)
    view.get_by_label("stop it after").fill("1")
    run(view)
    view.get_by_text("had not ended after 1 s").wait_for(timeout=60_000)
    own(view, "saxpy", CRASH)
    run(view)
    view.get_by_text("crashed: it ended by SIGKILL").wait_for(timeout=60_000)
    own(view, "saxpy")
    assert "results as expected" in ran(view)


def test_a_run_can_be_stopped(view):
    own(view, "saxpy", ENDLESS)
    view.get_by_label("stop it after").fill("60")
    run(view)
    view.get_by_text("running").wait_for(timeout=60_000)
    (pid,) = kernel_processes()
    view.get_by_role("button", name="Stop").click()
    wait_for_end(pid)
    own(view, "saxpy")
    assert "results as expected" in ran(view)


def test_a_file_of_ones_own(view, tmp_path):
    path = tmp_path / "mine.cu"
    path.write_text("__global__ void f(int* x) {\n    x[threadIdx.x] = 2;\n}\n")
    own(view, "saxpy", "")
    view.get_by_label("or a file").set_input_files(path)
    view.locator(".editor").get_by_label("grid").fill("1")
    view.locator(".editor").get_by_label("block").fill("32")
    view.get_by_label("arguments, one a line").fill("int32[32]")
    view.get_by_label("what arrays should be").fill("x = 2")
    assert "results as expected" in ran(view)
    assert "mine.cu" in view.locator(".source h2").inner_text()


def test_a_kernel_that_touches_no_memory_is_shown_without_figures(view):
    own(view, "saxpy", "__global__ void nothing(int* x) {}\n")
    assert "ran" in ran(view)
    assert "saxpy.cu" in view.locator(".source h2").inner_text()


def test_a_fault_in_a_header_is_shown_there(view):
    own(view, "total", '#define ADDENDS 8\n#define COLUMNS 32\n#include "column_sum.cuh"\n')
    view.get_by_label("what to see").select_option("check")
    for label, text in (("kernel", "column_sum"), ("grid", "1"), ("block", "32,8")):
        view.locator(".editor").get_by_label(label, exact=True).fill(text)
    view.get_by_label("arguments, one a line").fill("float32[8,32]\n" + 3 * "float32[32]\n" + "9\n32")
    assert "faults found: 1" in ran(view)
    assert view.locator(".source h2").inner_text() == "column_sum.cuh"
    assert "partials[" in view.locator("tr.marked").inner_text()


def test_without_a_compiler_the_page_says_so(page, play, monkeypatch):
    monkeypatch.setattr(kernel, "compiler_available", lambda: False)
    page.goto(f"{play}#kernel")
    page.locator("#kernel .lines tbody tr").first.wait_for()
    assert "needs g++, which is missing: apt install g++" in page.get_by_role("alert").inner_text()
    assert page.get_by_role("button", name="Run", exact=True).is_disabled()


def test_by_keyboard(view):
    view.locator("#kernel-name").select_option("gelu")
    view.get_by_label("rows", exact=True).fill("7")
    view.get_by_label("width").fill("65")
    view.get_by_role("button", name="Run", exact=True).focus()
    view.keyboard.press("Enter")
    view.locator("#kernel-verdict").wait_for(timeout=60_000)
    lines = [int(text) for text in view.locator(".lines tbody button").all_inner_texts()]
    view.locator(".lines tbody button").first.focus()
    view.keyboard.press("ArrowDown")
    assert view.evaluate("document.activeElement.textContent") == str(lines[1])
    assert f"Line {lines[1]}," in view.locator("#threads-note").inner_text()
    view.get_by_role("button", name="warp 0", exact=True).focus()
    view.keyboard.press("ArrowDown")
    assert view.evaluate("document.activeElement.textContent") == "warp 1"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_narrow_and_accessible(view, theme):
    from axe_playwright_python.sync_playwright import Axe

    view.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    view.set_viewport_size({"width": 390, "height": 844})
    for name in ("transpose", "total"):
        own(view, name)
        ran(view)
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        found = Axe().run(view)
        assert found.violations_count == 0, found.generate_report()
    view.set_viewport_size({"width": 1280, "height": 800})
    found = Axe().run(view)
    assert found.violations_count == 0, found.generate_report()
