"""JSON lines as people's files have them: what is read as it is meant, and what is named."""

import pytest

from minillm.data.json_lines import read_objects
from minillm.errors import UserError


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes bytes into f.jsonl, the present folder's."""
    monkeypatch.chdir(tmp_path)

    def write(data, name="f.jsonl"):
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return name

    return write


@pytest.mark.parametrize(
    "data",
    [
        '{"a": 1}\n{"a": 2}\n',
        '{"a": 1}\n{"a": 2}',
        '\ufeff{"a": 1}\r\n\r\n{"a": 2}\r\n',
        '  {"a": 1}\t \n \n\n{"a": 2}  \n\n',
        '\ufeff{"a": 1}\n\ufeff{"a": 2}\n',  # two files with marks, joined
        '[{"a": 1}, {"a": 2}]',
        '\ufeff\n[\n  {"a": 1},\n  {"a": 2}\n]\n',
    ],
)
def test_what_is_meant_is_read(written, data):
    assert [found for _, found in read_objects(written(data))] == [{"a": 1}, {"a": 2}]


def test_lines_are_counted_as_an_editor_counts_them(written):
    found = read_objects(written('\n{"a": "x\u2028y\u0085z"}\r\n\n{"a": 2}\n'))
    assert [where for where, _ in found] == ["f.jsonl, line 2", "f.jsonl, line 4"]
    assert found[0][1]["a"] == "x\u2028y\u0085z"
    assert read_objects(written('[{"a": 1},\n {"a": 2}]'))[1][0] == "f.jsonl, entry 2"


@pytest.mark.parametrize(
    "data, message",
    [
        ("", "f.jsonl is empty"),
        ("\n \n", "f.jsonl is empty"),
        ("[]", "f.jsonl is empty"),
        ('{"a": 1}\n{"a": 2', "f.jsonl, line 2: the line breaks off, the file is cut short"),
        ('{"a": 1}\n{"a": "tw', "f.jsonl, line 2: the line breaks off, the file is cut short"),
        ('{\n "a": 1\n}\n', "f.jsonl, line 1: the object does not end in this line: write each object in one line"),
        ('{"a": 1},\n{"a": 2}', "f.jsonl, line 1: a comma follows the object"),
        ('{"a": 1} {"a": 2}', "f.jsonl, line 1: more follows the object, '{\"a\": 2}'"),
        ("{'a': 1}", "f.jsonl, line 1: it is written as Python"),
        ('{"a": 1}\nhello\n{"a": 1}', "f.jsonl, line 2: no JSON at column 1, 'hello'"),
        ('{"a": 1}\n[1]', "f.jsonl, line 2: it is a list, not an object"),
        ('{"a": 1}\n"text"', "f.jsonl, line 2: it is a text, not an object"),
        ('[{"a": 1}, 7]', "f.jsonl, entry 2: it is a number, not an object"),
        ('[{"a": 1}]\n{"a": 2}', "f.jsonl, line 2: it begins with a JSON array, and more follows"),
        ('[{"a": 1},\n{"a"', "f.jsonl, line 2: its JSON array breaks off"),
        ("[" * 100_000, "f.jsonl: its JSON is nested too deeply"),
        ('{"a": ' * 100_000, "f.jsonl, line 1: its JSON is nested too deeply"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', "f.jsonl, line 2: byte 0xe9 is no UTF-8: save the file as UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "f.jsonl is UTF-16 text"),
        (b"\x1f\x8b\x08\x00", "f.jsonl is a gzip file: unpack it"),
        (b"PAR1....", "f.jsonl is a parquet file: unpack it"),
    ],
)
def test_what_is_wrong_is_named(written, data, message):
    with pytest.raises(UserError) as caught:
        read_objects(written(data))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_what_is_no_file(written, tmp_path):
    with pytest.raises(UserError, match=r"^none\.jsonl does not exist: name a file of JSON lines"):
        read_objects("none.jsonl")
    with pytest.raises(UserError, match="is a folder: name the files in it"):
        read_objects(tmp_path)
