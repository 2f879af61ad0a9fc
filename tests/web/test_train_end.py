"""Ctrl-C of `minillm play` ends a training with it, within a second, and leaves a run to be resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

from minillm.training import resume_run

FORM = {
    "preset": "simulator",
    "name": "tiny",
    "data": "python-docs",
    "characters": 5000,
    "settings": {"max_steps": 10**6, "eval_interval": 10**6},
}


def ask(address, path, body):
    with urllib.request.urlopen(urllib.request.Request(address + path, json.dumps(body).encode())) as answer:
        return json.load(answer)


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path):
    from minillm.lessons.small_model import small_model

    small_model()  # so that the command finds it
    command = [sys.executable, "-m", "minillm", "play", "--no-browser", "--port", "0", "--runs", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        lines = iter(process.stderr.readline, "")
        address = next(match[0] for line in lines if (match := re.search(r"http://\S+", line)))
        ask(address, "train/start", FORM)
        while (status := ask(address, "train/now", {})["session"]).get("step", 0) < 3:
            assert status["state"] in ("preparing", "running", "evaluating"), status
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate()
    run = resume_run(tmp_path / "runs" / "tiny")
    assert run.progress.step >= status["step"], "the steps up to Ctrl-C are kept"
