"""`minillm chat` with lines from a pipe: what is written where, the commands, and what is said of wrong ones."""

import json
import os
import signal
import subprocess
import sys

import pytest

from minillm.cli import chat_sampler
from minillm.cli.chat_session import COMMANDS
from minillm.generation.conversation import Conversation
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.pretrained.chat import chat_of
from minillm.sampler import Sampler
from minillm.sampler.settings import SamplerSettings

pytest.importorskip("jinja2", reason="chat templates need jinja2")
from talking import CHATML, END, LETTER, ONLY_Q, make_model  # noqa: E402

CUT = "(cut after 3 tokens: --max-tokens, or /sampler max_tokens=N, allows more)"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "talks")
    make_model(folder / "small", context_length=64)
    make_model(folder / "mute", template=None)
    make_model(
        folder / "no-system",
        template="{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML,
    )
    make_model(folder / "deaf", template=CHATML.replace("messages %}", "messages if m.role != 'system' %}"))
    return folder


@pytest.fixture
def chat(minillm, models):
    """Runs `minillm chat`, whose answers are qqq; returns the lines of standard output and those of standard error."""

    def run(lines, *arguments, model="talks", expect=0):
        text = "".join(line + "\n" for line in lines)
        done = minillm("chat", models / model, *(arguments or (*ONLY_Q, "--max-tokens", 3)), text=text, expect=expect)
        assert "Traceback" not in done.stderr
        return done.stdout.splitlines(), done.stderr.splitlines()

    return run


def messages(*contents):
    return [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)]


def test_answers_are_those_of_a_conversation_in_python(minillm, models):
    lines, options = ["the fox", "and the user?"], ("--seed", 5, "--max-tokens", 9, "--dtype", "float64", "--top-k", 50)
    done = minillm("chat", models / "talks", *options, text="\n".join(lines))
    folder = models / "talks"
    tokenizer, sampler = tokenizer_of(folder), Sampler(temperature=0.8, top_k=50, seed=5)
    conversation = Conversation(from_pretrained(folder, "float64"), tokenizer, chat_of(folder), sampler, max_tokens=9)
    assert done.stdout == "".join("".join(conversation.answer(line)) + "\n" for line in lines)
    again = minillm("chat", models / "talks", *options, text="\n".join([*lines, "/undo", "/undo", *lines]))
    assert again.stdout == 2 * done.stdout


def test_the_first_answer_is_that_of_generate(minillm, models):
    options = ("--seed", 5, "--max-tokens", 9, "--dtype", "float64")
    one = minillm("generate", models / "talks", "--chat", "--prompt", "the fox", *options).stdout
    cut = "\N{REPLACEMENT CHARACTER}\n"  # generate shows a character of which only the first bytes were written
    assert minillm("chat", models / "talks", *options, text="the fox\n").stdout.rstrip(cut) == one.rstrip(cut)


def test_messages_and_commands(chat, tmp_path):
    lines = [
        "one",
        "",
        "/save a.json",
        "two",
        "/undo",
        "//three",
        "/save b.json",
        "/reset",
        "four \\",
        "five",
        "/save c.jsonl",
    ]
    out, err = chat([*lines, "/exit", "never read"])
    assert out == ["qqq"] * 4
    assert err == [
        *(CUT, "(2 messages saved: a.json)", CUT, "(taken back: two)", CUT, "(4 messages saved: b.json)"),
        *("(a new conversation: nothing was said)", CUT, "(2 messages saved: c.jsonl)"),
    ]
    assert json.loads((tmp_path / "a.json").read_text()) == messages("one", "qqq")
    assert json.loads((tmp_path / "b.json").read_text()) == messages("one", "qqq", "/three", "qqq")
    assert json.loads((tmp_path / "c.jsonl").read_text()) == {"messages": messages("four \nfive", "qqq")}


@pytest.mark.parametrize(
    "line, said",
    [
        ("/rest", "/rest is no command: did you mean /reset? /help lists them; // begins a message with a slash"),
        ("/", "/ is no command: /help lists them; // begins"),
        ("/usr/bin", "/usr/bin is no command"),
        ("/reset all", "/reset takes nothing: leave out 'all'"),
        ("/save", "/save needs a file: /save FILE"),
        ("/load", "/load needs a file: /load FILE [N]"),
        ("/save there.json", "there.json: the file is there, and holds something else"),
        ("/save nowhere/a.json", "there is no folder nowhere"),
        ("/load nothing.json", "nothing.json: No such file or directory"),
        ("/load .", "Is a directory"),
        ("/load wrong.json", "wrong.json: message 2 has no role (it has from, value)"),
        ("/load there.json 2", "there.json holds one conversation: there is no number 2"),
        ("/sampler temperature=-1", "temperature is -1.0: it must be a finite number of at least 0 (0 is greedy)"),
        ("/sampler top_k=many", "top_k is many: it must be a whole number of at least 0"),
        ("/sampler top_k", "top_k: write name=value"),
        ("/sampler top_q=1", "there is no setting 'top_q'"),
        ("/sampler top_k=3 seed=x", "seed is x: it must be a whole number"),
        ("/sampler order=none_such", 'order is "none_such"'),
        ("/sampler banned_tokens=999", "banned_tokens names token 999, but the vocabulary has only 278 tokens"),
        ("/sampler logit_bias=5", "logit_bias is 5: it must be ids of tokens, each with a number"),
        ("/sampler max_tokens=0", "max_tokens is 0: it must be a whole number of at least 1"),
        (
            "the fox! " * 200,
            "tokens, with the system message and what the template adds, and the model sees 256 at a time",
        ),
        ("\ud800", "standard input, line 2 is not valid UTF-8"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(minillm, models, tmp_path, line, said):
    (tmp_path / "there.json").write_text(json.dumps(messages("x", "y")))
    (tmp_path / "wrong.json").write_text(json.dumps([*messages("x"), {"from": "human", "value": "y"}]))
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    text = f"one\n{line}\n/sampler\n/save after.json\n"
    arguments = ("chat", models / "talks", *ONLY_Q, "--max-tokens", 3)
    if line == "\ud800":
        done = run_process(arguments, text.encode("utf-8", "surrogatepass"), tmp_path)
    else:
        done = minillm(*arguments, text=text)
    cut, complaint, *rest = done.stderr.splitlines()
    assert complaint.startswith("minillm: ") and said in complaint
    assert rest[-1] == "(2 messages saved: after.json)" and "Traceback" not in done.stderr
    settings = [each.split()[0] for each in rest[:-1]]
    assert {"max_tokens=3", "temperature=0.8", "top_k=off", "seed=0"} < set(settings), "all or nothing is set"
    assert {path: path.read_bytes() for path in before} == before
    assert json.loads((tmp_path / "after.json").read_text()) == messages("one", "qqq")


def run_process(arguments, text, folder, **options):
    command = [sys.executable, "-m", "minillm", *map(str, arguments)]
    done = subprocess.run(command, input=text, cwd=folder, capture_output=True, timeout=120, **options)
    done.stderr = done.stderr.decode()
    return done


def test_a_file_that_is_loaded_goes_on(chat, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(messages("x", "y")))
    out, err = chat(["/load a.json", "one", "/save a.json"])
    assert out == ["qqq"] and err == ["(2 messages loaded: a.json)", CUT, "(4 messages saved: a.json)"]
    assert json.loads((tmp_path / "a.json").read_text()) == messages("x", "y", "one", "qqq")


def test_json_lines_are_loaded_by_number_and_never_replaced(chat, tmp_path):
    lines = [{"messages": messages("x", "y")}, {"messages": messages("a"), "tools": [1]}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "data set.jsonl").write_text(text)
    out, err = chat(
        ["/load data set.jsonl", "/load data set.jsonl 2", "/retry", "/save data set.jsonl", "/save 2.json"]
    )
    assert err == [
        "(2 messages loaded: conversation 1 of 2)",
        "(1 message loaded: conversation 2 of 2)",
        "(not used: tools)",
        "(the last message has no answer yet: /retry answers it)",
        CUT,
        "minillm: /save data set.jsonl: the file is there, and holds something else: use another name, or delete it first",
        "(2 messages saved: 2.json)",
    ]
    assert (tmp_path / "data set.jsonl").read_text() == text
    assert json.loads((tmp_path / "2.json").read_text()) == messages("a", "qqq")


def test_the_system_message(chat, tmp_path):
    lines = ["/system", "one", "/system be a fox", "/reset", "/save a.json", "/system -", "/system"]
    out, err = chat(lines, *ONLY_Q, "--max-tokens", 3, "--system", "be brief")
    assert err == [
        *("(system: be brief)", CUT, "(system: be a fox)", "(a new conversation: the system message stays)"),
        *("(1 message saved: a.json)", "(no system message)", "(no system message)"),
    ]
    assert json.loads((tmp_path / "a.json").read_text()) == [{"role": "system", "content": "be a fox"}]
    out, err = chat(["/system be brief", "one"], model="no-system")
    assert out == ["qqq"] and err[0].startswith("minillm: the model's chat template cannot be used: no system")
    out, err = chat(["/system be brief"], model="deaf")
    assert err == ["(system: be brief)", "(the model's template does not show it the system message)"]


def test_the_sampler_is_shown_and_set(chat):
    out, err = chat(["/sampler temperature=0 top-k=40 max_tokens=2", "one", "/retry", "/sampler seed=4 top_p=0.5"])
    assert out == ["qq", "qq"]
    shown = f"logit_bias={LETTER}:1000.0"
    assert err[:2] == [
        "(top-k: no effect at temperature 0, which takes the likeliest token anyway)",
        f"(temperature=0.0 top_k=40 seed=0 {shown} max_tokens=2)",
    ]
    assert "(temperature is 0: the same messages have the same answer)" in err
    assert "(seed changes nothing: nothing is drawn where the likeliest is chosen)" in err
    assert err[-1] == f"(temperature=0.0 top_k=40 seed=4 top_p=0.5 {shown} max_tokens=2)"
    _, err = chat(["/sampler min_tokens=5 dry_multiplier=0.5", "/sampler dry-breaker=3,4 ban_token=7"])
    assert f"min_tokens=5 end_tokens={END}" in err[0] and "dry_breakers=" in err[0]
    assert "dry_breakers=3,4" in err[1] and "banned_tokens=7" in err[1]


def test_every_setting_is_shown_as_it_is_typed():
    values = dict(top_k=40, top_p=0.5, banned_tokens=(1, 2), logit_bias={5: -1.0}, forced_tokens={0: 7}, order="hf")
    values |= dict(end_tokens=(3,), min_tokens=4, ties="all", mirostat_tau=None)
    settings = vars(SamplerSettings(**values))
    assert [*settings] == chat_sampler.setting_names()[1:]
    for name, value in settings.items():
        assert chat_sampler.read_setting(name, chat_sampler.shown_setting(value)) == value, name


def test_help_lists_every_command(chat):
    _, err = chat(["/help"])
    assert [line.split()[0] for line in err if line.startswith("/")] == [f"/{name}" for name in COMMANDS]


def test_a_context_that_is_full_is_said(chat):
    out, err = chat([*["the fox"] * 6], *ONLY_Q, "--max-tokens", 3, "--system", "be", model="small")
    said = [line for line in err if line != CUT]
    assert out == ["qqq"] * 6 and said
    for line in said:
        assert line.startswith("(the context is full: the ") and line.endswith("; the system message stays)")
    out, err = chat(["the fox"], *ONLY_Q, model="small")
    assert err == ["(cut: the model sees 64 tokens at a time, and they are full)"] and len(out[0]) > 20


def test_an_empty_answer_is_a_line(chat):
    out, err = chat(["one", "two"], "--logit-bias", f"{END}:1000")
    assert out == ["", ""] and err == ["(an empty answer)"] * 2


def test_stop(chat):
    out, err = chat(["one"], *ONLY_Q, "--stop", "qqqq")
    assert out == [""] and err == ["(an empty answer)"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "has no chat template: it was not made for conversations; minillm generate without --chat"),
        (("--chat-template", "x"), "has no chat template"),
        (("--top-k", "-1"), "--top-k is -1"),
        (("--min-tokens", "3", "--temperature", "-1"), "--temperature is -1"),
    ],
)
def test_what_is_refused_at_the_start(chat, arguments, said):
    model = "mute" if "template" in said else "talks"
    out, (err,) = chat(["one"], *arguments, "--seed", 0, model=model, expect=2)
    assert out == [] and said in err


def test_a_system_message_that_the_template_refuses_is_an_error_at_the_start(chat):
    out, (err,) = chat(["one"], "--system", "be brief", model="no-system", expect=2)
    assert out == [] and "no system" in err


def test_notes_on_options_without_effect(chat):
    _, err = chat([], "--xtc-threshold", 0.5, "--revision", "main")
    assert [line.split(" changes nothing")[0] for line in err] == ["(--xtc-threshold", "(--revision"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX systems")
def test_a_signal_in_the_middle_of_a_line_from_a_pipe(models, tmp_path):
    """Ctrl-C ends an answer, and the next line is answered; SIGTERM ends the process."""
    make_model(tmp_path / "model", context_length=100_000)
    arguments = ["chat", "model", *ONLY_Q, "--max-tokens", 90_000]
    command = [sys.executable, "-m", "minillm", *map(str, arguments)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        process.stdin.write(b"one\n/save talk.json\ntwo\n")
        process.stdin.flush()
        assert process.stdout.read(4) == b"qqqq"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == b"(stopped)\n"
        assert process.stderr.readline() == b"(2 messages saved: talk.json)\n"
        assert process.stdout.readline().strip(b"q") == b"\n"
        assert process.stdout.read(4) == b"qqqq"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM and err == b""
