"""The frame of Play: how it opens and ends, and whom it answers."""

import asyncio
import gc
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing, contextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from model_files import write_gguf
from web_testing import served

from minillm.errors import UserError
from minillm.lessons.small_model import small_model
from minillm.training import resume_run
from minillm.web.page import LOOK
from minillm.web.play import app as app_module
from minillm.web.play.answers import LARGEST, answer, stream
from minillm.web.play.opening import open_studio, size_of
from minillm.web.play.server import listen, listen_somewhere
from minillm.web.play.studio import Studio


@contextmanager
def asked(address, path="about", body=b"{}", method="POST", **headers):
    """An answer, whose connection is closed afterwards."""
    place = urlsplit(address)
    with closing(http.client.HTTPConnection(place.netloc, timeout=30)) as connection:
        connection.request(method, place.path + path, body=body, headers=headers)
        with closing(connection.getresponse()) as response:
            yield response


def ask(*arguments, **headers):
    """The status and the text of an answer."""
    with asked(*arguments, **headers) as response:
        return response.status, response.read().decode()


# ---------------------------------------------------------------------------------------------- whom it answers


def test_a_page_of_its_own_is_answered(play):
    origin = f"http://{urlsplit(play).netloc}"
    status, text = ask(play, Origin=origin)
    assert status == 200
    assert json.loads(text)["weights"] == 467_584


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
    ],
)
def test_another_place_is_refused(play, headers):
    assert ask(play, **headers)[0] == 403
    assert ask(play, "", method="GET", **headers)[0] == 403


def test_nothing_is_answered_without_the_token(play):
    root = play[: play.rindex("/", 0, -1) + 1]
    for path in ("", "about", "look/look.css", "Token/about", "tokem/app.js"):
        assert ask(root, path, method="GET")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "../app.py",
        "%2e%2e/app.py",
        "look/../page.py",
        "look/%2e%2e/page.py",
        "..%2fapp.py",
        "/etc/passwd",
        "%2fetc/passwd",
    ],
)
def test_no_file_outside_of_the_page_is_served(play, path):
    status, text = ask(play, path, method="GET")
    assert status in (403, 404) and "import" not in text


def test_an_answer_that_is_cut_off_leaves_no_file_open(tmp_path):
    """A file opened for an answer that was cut off is closed by nothing but the garbage collector, which says so."""
    app = app_module.create_app(open_studio(None, tmp_path), "token", 1)
    scope = {"type": "http", "method": "GET", "path": "/token/app.js", "query_string": b"", "root_path": ""}
    scope |= {"headers": [(b"host", b"127.0.0.1:1")], "asgi": {"spec_version": "2.4"}}

    async def receive():
        return await asyncio.Event().wait()

    async def cut_off(moment):
        sent = []

        async def send(message):
            sent.append(message)

        answering = asyncio.create_task(app(dict(scope), receive, send))
        while not sent:
            await asyncio.sleep(0)
        await asyncio.sleep(moment)
        answering.cancel()  # as the server does when it ends
        await asyncio.wait([answering])
        assert sent[0]["status"] == 200

    def run_all():
        for moment in range(40):
            asyncio.run(cut_off(moment * 2e-5))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        thread = threading.Thread(target=run_all)  # this one may have a loop already: the browser's
        thread.start()
        thread.join()
        gc.collect()
    assert [str(warning.message) for warning in said] == []


def test_every_answer_forbids_foreign_scripts_and_frames(play):
    for path in ("", "app.js", "look/dom.js", "no-such-file"):
        with asked(play, path, method="GET") as response:
            policy = response.getheader("content-security-policy")
            assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
            assert "script-src" not in policy  # so that default-src holds: no inline script
            assert response.getheader("x-content-type-options") == "nosniff"


def test_it_listens_on_this_machine_only():
    with listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


# -------------------------------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize("body", [b"[]", b"1", b"{", b"\xff"])
def test_what_is_no_object_is_refused_in_a_sentence(play, body):
    status, text = ask(play, body=body)
    assert status == 400 and "reload" in json.loads(text)["error"]


@pytest.mark.parametrize(
    "body, why",
    [
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"text": "\\ud800"}', "half of a character"),
        (b'{"number": ' + b"9" * 10_000 + b"}", "no JSON"),
    ],
)
def test_what_python_cannot_take_is_refused_in_a_sentence(play, body, why):
    status, text = ask(play, body=body)
    assert status == 400 and why in json.loads(text)["error"]


def test_a_name_that_is_no_text_is_sent_as_far_as_it_is(try_out):
    def refused(studio, arguments):
        raise UserError("no a\udcff")

    names = answer, "/names", lambda studio, arguments: ["a\udcff"]
    with try_out(names, (answer, "/refused", refused)) as address:
        assert ask(address, "names") == (200, '["a?"]')
        assert ask(address, "refused") == (400, '{"error": "no a?"}')


def test_a_request_has_a_largest_size(play):
    status, text = ask(play, body=b" " * (LARGEST + 1))
    assert status == 400 and "shorter" in json.loads(text)["error"]


@pytest.fixture
def try_out(monkeypatch):
    """Serves the routes that are given, with a studio that has no model."""

    def serve(*routes):
        studio = Studio(None, None, "none", None)
        view = SimpleNamespace(routes=lambda studio: [make(path, studio, function) for make, path, function in routes])
        monkeypatch.setattr(app_module, "VIEWS", (view,))
        return served(studio)

    return serve


def test_the_worker_serves_others_between_two_values_of_a_stream(try_out):
    order, go = [], threading.Event()

    def values(studio, arguments):
        for number in range(3):
            order.append(number)
            yield number
            go.wait(10)

    def other(studio, arguments):
        order.append("other")
        return float("inf")

    with try_out((stream, "/values", values), (answer, "/other", other)) as address:
        with asked(address, "values") as response:
            assert response.readline() == b"0\n"
            assert ask(address, "other") == (200, "null")  # infinity is null in JSON
            go.set()
            assert response.read() == b"1\n2\n"
    assert order == [0, 1, "other", 2]


def test_a_reader_that_goes_away_closes_the_stream(try_out):
    closed = threading.Event()

    def values(studio, arguments):
        try:
            while True:
                yield "x" * 10_000
        finally:
            closed.set()

    with try_out((stream, "/values", values)) as address:
        with asked(address, "values") as response:
            response.readline()
        assert closed.wait(20)


def test_an_error_in_a_stream_is_its_last_line(try_out):
    def values(studio, arguments):
        yield 1
        raise UserError("the disk is full")

    def refused(studio, arguments):
        raise UserError("no")
        yield

    with try_out((stream, "/values", values), (stream, "/refused", refused)) as address:
        assert ask(address, "values") == (200, '1\n{"error": "the disk is full"}\n')
        assert ask(address, "refused") == (400, '{"error": "no"}')


def test_a_fault_of_the_program_ends_a_stream_with_a_sentence(try_out):
    def values(studio, arguments):
        yield 1
        raise ZeroDivisionError

    with try_out((stream, "/values", values)) as address:
        with asked(address, "values") as response:
            assert response.readline() == b"1\n"
            assert "which is in the terminal" in json.loads(response.readline())["error"]


# ------------------------------------------------------------------------------------------- how it opens and ends


def start(*arguments, **more):
    """The process of `minillm play`, and the address that it prints."""
    command = [sys.executable, "-m", "minillm", "play", "--no-browser", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"http://\S+", line):
            return process, found[0], "".join(lines)
    raise AssertionError("".join(lines))


def test_ctrl_c_ends_it(tmp_path):
    process, address, said = start("--runs", str(tmp_path / "runs"))
    assert "467,584 weights" in said
    assert ask(address)[0] == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr.read() == "\nminillm: stopped\n"
    process.stderr.close()
    assert not (tmp_path / "runs").exists()  # nothing is made that was not asked for


def test_ctrl_c_ends_what_is_running(tmp_path):
    """A training run and a check of a gradient, whose answer is being read: no word of theirs, and the run can go on."""
    process, address, _ = start("--runs", str(tmp_path / "runs"))
    settings = {"max_steps": 100_000, "sample_tokens": 0, "eval_windows": 2, "n_layer": 1, "d_model": 32}
    status, text = ask(address, "train/start", json.dumps({"settings": settings, "name": "one"}).encode())
    assert status == 200, text
    wanted = {"text": "The value of the list", "name": "h.0.attn.c_attn.weight"}
    with asked(address, "backward/check", json.dumps(wanted).encode()) as response:
        assert response.status == 200 and response.readline()
        while json.loads(ask(address, "train/now")[1])["session"].get("step", 0) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert process.stderr.read() == "\nminillm: stopped\n"
    process.stderr.close()
    assert resume_run(tmp_path / "runs" / "one").progress.step >= 2


def test_ctrl_c_waits_for_no_thread(tmp_path):
    """A thread of a pool that works for a minute: Python would wait for it at a normal end."""
    program = (
        "import time; from concurrent.futures import ThreadPoolExecutor; import minillm.web.play.server as server; "
        "pool = ThreadPoolExecutor(1); serve = server.serve; "
        "server.serve = lambda *given: (pool.submit(time.sleep, 60), serve(*given)); "
        "from minillm.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "play", "--no-browser", "--port", "0", "--runs", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while "open http" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == "\nminillm: stopped\n"


def test_the_end_waits_for_a_view_until_the_deadline_only():
    studio, called = Studio(None, None, "none", None), []
    studio.enders += [called.append, lambda deadline: time.sleep(600)]
    deadline = time.monotonic() + 0.05
    studio.end(deadline)
    assert called == [deadline]


def test_a_port_that_is_taken_is_said_in_one_line():
    with listen(0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: .*--port"):
            listen(port)


def test_without_a_port_any_free_one_is_taken(monkeypatch):
    with listen(0) as taken:
        monkeypatch.setattr("minillm.web.play.server.USUAL_PORT", taken.getsockname()[1])
        with listen_somewhere() as other:
            assert other.getsockname()[1] != taken.getsockname()[1]


def test_what_is_no_model_is_one_line(tmp_path):
    for source in ("gone", tmp_path):
        with pytest.raises(UserError, match=str(source)):
            open_studio(source, tmp_path)


def test_the_size_is_said_before_a_weight_is_read(real_data, monkeypatch, tmp_path):
    folder, gguf = small_model().folder, tmp_path / "model.gguf"
    write_gguf(gguf, small_model().model)
    monkeypatch.setattr("minillm.web.play.opening.from_pretrained", None)
    assert size_of(folder) == "467,584 weights, 1.87 MB in float32"
    assert size_of(gguf) == "467,584 weights, 1.87 MB in float32"
    assert size_of(real_data / "stories260K" / "stories260K.bin").startswith("a file of 1.0")


def test_the_extra_is_named_where_the_server_is_missing():
    program = "import sys; sys.modules['starlette'] = None; from minillm.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "play"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 2
    assert done.stderr == 'minillm: minillm play needs starlette, which is not installed: pip install "minillm[web]"\n'


# ------------------------------------------------------------------------------------------------- in a browser


def test_the_views_are_links_and_the_address_names_the_view(page, play):
    from playwright.sync_api import expect

    page.goto(play)
    page.get_by_role("link", name="Tokens").click()
    page.wait_for_selector("#tokens")
    assert page.url.endswith("#tokens") and page.title() == "Tokens - minillm play"
    assert page.locator("#views a[aria-current=page]").inner_text() == "Tokens"
    page.go_back()
    page.wait_for_selector("#write")
    expect(page.locator("#model")).to_contain_text("467,584 weights")


COUNT_LISTENERS = """
let count = 0;
for (const [name, change] of [["addEventListener", 1], ["removeEventListener", -1]]) {
  const usual = document[name];
  document[name] = function (...listener) {
    count += change;
    document.documentElement.dataset.listeners = count;
    return usual.apply(this, listener);
  };
}"""


def test_a_view_that_is_left_before_it_has_loaded_ends(page, play):
    """Else its keys and its questions to the server would go on behind the next view."""
    from playwright.sync_api import expect

    held = []
    page.add_init_script(COUNT_LISTENERS)
    page.route("**/write/start", lambda route: held.append(route))
    with page.expect_request("**/write/start"):
        page.goto(play)
    expect(page.locator("html")).to_have_attribute("data-listeners", "1")  # for the keys of Write
    page.get_by_role("link", name="Tokens").click()
    expect(page.locator("#tokens textarea")).to_be_visible()
    held[0].continue_()
    expect(page.locator("html")).to_have_attribute("data-listeners", "0")
    expect(page.locator("#tokens textarea")).to_be_visible()


def test_dark_and_light_are_switched_and_kept(page, play):
    page.goto(play)
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.get_by_role("button", name="light or dark").click()
    after = page.evaluate(colour)
    assert before != after
    page.reload()
    assert page.evaluate(colour) == after


def test_a_server_that_has_stopped_is_said(page, tmp_path):
    from playwright.sync_api import expect

    with served(open_studio(None, tmp_path)) as address:
        page.goto(address)
        expect(page.locator("#model")).to_contain_text("weights")
    page.evaluate("location.hash = 'tokens'")
    expect(page.get_by_role("alert")).to_contain_text("minillm play")


# ------------------------------------------------------------------------------------------------------ its weight


def test_all_of_the_page_is_below_400_kilobytes():
    files = [path for folder in (LOOK, app_module.STATIC) for path in folder.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 400_000


def test_each_view_has_a_script():
    for name in ("write", "backward", "train", "kernel", "tokens"):
        assert (app_module.STATIC / f"{name}.js").is_file()
