"""Text files as editors and systems write them."""

import pytest

from minillm.data import load_text
from minillm.errors import UserError
from minillm.files.atomic import decode_text, read_text

TEXT = "ein Satz\r\nnoch einer\n日本"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_mark_is_skipped_and_line_ends_are_kept(tmp_path, mark):
    path = tmp_path / "text.txt"
    path.write_bytes(mark + TEXT.encode())
    assert read_text(path) == load_text([str(path)]) == TEXT
    assert load_text([str(path), str(path)]) == TEXT + TEXT  # each file has its own


def test_a_mark_inside_of_a_text_stays():
    assert decode_text("a\ufeffb".encode(), "x") == "a\ufeffb"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["plain letters, and more of them\r\n", "é and ü, now and then"])
def test_utf_16_is_called_what_it_is(tmp_path, encoding, text):
    (tmp_path / "text.txt").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"text.txt is UTF-16 text \((little|big)-endian\), not UTF-8: save it"):
        load_text([str(tmp_path / "text.txt")])


@pytest.mark.parametrize("data", [b"a\0b", b"\0" * 100, b"one\0two\0three\0", "日本".encode() * 10])
def test_what_is_utf_8_is_not_taken_for_it(data):
    assert decode_text(data, "x") == data.decode()


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_nothing_is_no_text(tmp_path, data):
    (tmp_path / "text.txt").write_bytes(data)
    with pytest.raises(UserError, match="text.txt is empty"):
        load_text([str(tmp_path / "text.txt")])
