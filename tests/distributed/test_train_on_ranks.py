"""`mpiexec -n N minillm train`: one run, one output, and a resume on another number of ranks."""

import pytest

from minillm.training.metrics import read_metrics

TEXT = "the quick brown fox jumps over the lazy dog. " * 30
MODEL = dict(n_layer=1, n_head=2, d_model=16, context_length=8)
SETTINGS = dict(batch_size=6, batch_parts=6, max_steps=4, eval_interval=2, eval_windows=3, sample_tokens=5)
OPTIONS = [
    f"--{name.replace('_', '-')}={value}"
    for name, value in {**MODEL, **SETTINGS, "tokenizer": "char", "optimizer": "adamw"}.items()
]
COMMAND = "from minillm.cli import main; main()"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def losses(folder):
    return [
        {name: value for name, value in event.items() if name != "tokens_per_second"} for event in read_metrics(folder)
    ]


def test_a_run_of_two_ranks_goes_on_with_three_and_is_that_of_one(ranks, folder):
    alone = ranks(1, "-c", COMMAND, "train", "--data=text.txt", *OPTIONS, "--out=one")
    assert alone.returncode == 0, alone.stdout
    begun = ranks(2, "-c", COMMAND, "train", "--data=text.txt", *OPTIONS, "--stop-after=3", "--out=many")
    assert begun.returncode == 0, begun.stdout
    assert begun.stdout.count("step     2") == begun.stdout.count("stopped and saved at step 3") == 1, begun.stdout
    ended = ranks(3, "-c", COMMAND, "train", "--resume=many")
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("step     4") == ended.stdout.count("wrote many") == 1, ended.stdout

    assert losses(folder / "many") == losses(folder / "one")
    for name in ("model.safetensors", "training/optimizer.safetensors"):
        assert (folder / "many" / name).read_bytes() == (folder / "one" / name).read_bytes()
    assert not [path for path in folder.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume=nowhere"], "minillm: nowhere holds no run"),
        (["--data=text.txt", "--max-stops=3"], "minillm: No such option: --max-stops"),
        (["--data=text.txt", *OPTIONS, "--processes=2"], "minillm: --processes is 2, but there are 2 ranks already"),
        (["--data=text.txt", *OPTIONS, "--threads=4"], "minillm: 8 workers for batches of 6 parts"),
    ],
    ids=["no run", "usage", "processes", "threads"],
)
def test_an_error_of_all_ranks_is_said_once(ranks, folder, arguments, message):
    done = ranks(2, "-c", COMMAND, "train", *arguments)
    assert done.returncode
    assert done.stdout.count(message) == done.stdout.count("minillm: ") == 1, done.stdout


def test_other_commands_print_once_as_well(ranks):
    done = ranks(2, "-c", COMMAND, "--version")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stdout
