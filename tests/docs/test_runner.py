"""What the tests of the pages are for: a page that is wrong is found."""

import re

import doc_commands
import pytest
from doc_commands import expected_code, plan, same_output
from doc_pages import Command, Fence, anchors, commands, fences, links

PAGE = """# A page

## What `x` does

```console
$ minillm a   # a comment
one 1.5
...
last
$ minillm b \\
    --c
```

[here](other.md#what), ![picture](p.png), `[not](a link)`

```python
# file: layers.py
x = 1
```
"""


def test_the_parts_of_a_page():
    console, python = fences(PAGE, "page.md")
    assert [fence.kind for fence in (console, python)] == ["console", "python"]
    assert python.file == "layers.py" and console.file is None
    first, second = commands(console)
    assert first.output == ("one 1.5", "...", "last") and first.place == "page.md:6"
    assert second.text == "minillm b --c" and second.output == ()
    assert links(PAGE) == ["other.md#what", "p.png"]
    assert anchors(PAGE) == {"a-page", "what-x-does"}


def test_output_before_a_command_is_refused():
    with pytest.raises(ValueError, match="begins with a command"):
        commands(Fence("console", "output", "page.md", 1))


@pytest.mark.parametrize(
    "shown, printed, same",
    [
        (["a 1"], ["a 1"], True),
        (["a 1"], ["a 2"], False),
        (["a 1"], ["b 1"], False),
        (["a 1"], ["a 1", "b"], False),
        (["a", "..."], ["a", "b", "c"], True),
        (["a", "...", "c"], ["a", "b", "c"], True),
        (["a", "...", "c"], ["a", "b"], False),
        (["..."], [], True),
        (["a b", "c"], ["a", "b c"], True),
        (["a", "...", "c"], ["a", "b c"], False),
        (["a", "...", "b", "...", "d"], ["a", "c", "b", "x", "d"], True),
        (["a", "...", "b"], ["a", "b", "c", "b"], True),
        ([], ["a"], False),
        (["loss 1.8927"], ["loss 1.8930"], True),
        (["loss 1.8927"], ["loss 1.9927"], False),
        (["error 2.6e-14"], ["error 7.1e-12"], True),
        (["error 2.6e-14"], ["error 7.1e-02"], False),
        (["12 tokens/s"], ["9,000 tokens/s"], True),
        (["a ..."], ["a b"], True),
        (["a ..."], ["b a"], False),
        (["h.0.attn 3"], ["h.1.attn 3"], False),
        (["bfloat16"], ["bfloat32"], False),
        (["loss nan"], ["loss 1.0"], False),
        (["1.3e-05"], ["-1.3e-05"], False),
        (["-3.2"], ["-3.21"], True),
    ],
)
def test_when_output_is_the_same(shown, printed, same):
    assert same_output(shown, printed, any_number=False) is same


def test_the_numbers_of_a_run_that_is_cut_are_numbers():
    assert same_output(["step 1200 loss 2.5"], ["step 4 loss 6.9"], any_number=True)
    assert not same_output(["step 1200 loss 2.5"], ["step 4 error 6.9"], any_number=True)


def test_plans():
    assert plan("minillm train").text.startswith("minillm train --max-steps")
    assert plan("pip install -e .").how == "elsewhere"
    assert plan("minillm lesson adam").how == "slow"
    assert plan("minillm info") == ("minillm info", "run", False)
    assert "chat.gguf" in plan("minillm generate SmolLM2-135M-Instruct.Q4_1.gguf").text


def test_exit_codes():
    assert expected_code(Command("minillm x", ("minillm: no such thing",), "")) == (2,)
    assert expected_code(Command("minillm x", ("fine",), "")) == (0,)


def test_a_command_that_does_not_exist_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doc_commands.unknown_options("minillm train --lr 1 --bach-size 3", tmp_path) == ["--bach-size"]
    assert doc_commands.unknown_options("minillm fly", tmp_path) == ["fly"]
    assert doc_commands.unknown_options("minillm tokenizer train x --out y", tmp_path) == []


def test_a_command_is_run_as_in_a_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = doc_commands.execute("minillm generate nothing --prompt x", tmp_path)
    assert code == 2 and re.match(r"minillm: .*nothing", output)
    code, output = doc_commands.execute("echo one | tr o 0", tmp_path)
    assert (code, output) == (0, "0ne\n")
