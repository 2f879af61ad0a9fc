import hashlib
import urllib.error
from pydoc_data.topics import topics

import pytest

from minillm.data import corpora, load_text, split_text
from minillm.errors import UserError


def test_python_docs():
    text = load_text(["python-docs"])
    assert len(text) > 400_000
    assert text.startswith(topics[min(topics)]) and text.endswith(topics[max(topics)])
    assert all(topic in text for topic in topics.values())


def test_files_are_joined_and_line_ends_kept(tmp_path):
    (tmp_path / "a").write_bytes("one\r\nä€😀\r".encode())
    (tmp_path / "b").write_bytes(b"\ntwo")
    assert load_text([str(tmp_path / "a"), str(tmp_path / "b")]) == "one\r\nä€😀\r\ntwo"


def test_first_nine_tenths_are_for_training():
    assert split_text("0123456789" * 10) == ("0123456789" * 9, "0123456789")


@pytest.mark.parametrize(
    "contents, message",
    [
        (None, "is neither a file nor one of the corpora python-docs, shakespeare"),
        (b"", "is empty"),
        (b"abc\xffdef", "is not valid UTF-8: byte 0xff at offset 3"),
        ("é".encode()[:1], "byte 0xc3 at offset 0"),
    ],
)
def test_unusable_files(tmp_path, contents, message):
    path = tmp_path / "text"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(UserError, match=message):
        load_text([str(path)])


def test_folder(tmp_path):
    with pytest.raises(UserError, match="is a folder: name the text files in it"):
        load_text([str(tmp_path)])


class TestShakespeare:
    TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(corpora.sys, "platform", "linux")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", hashlib.sha256(self.TEXT).hexdigest())
        self.kept = tmp_path / "minillm" / "tinyshakespeare.txt"

    def answer_with(self, monkeypatch, data):
        class Response:
            def read(self):
                return data

            def __enter__(self):
                return self

            def __exit__(self, *exception):
                pass

        self.downloads = []
        monkeypatch.setattr(
            corpora.urllib.request, "urlopen", lambda url, timeout: self.downloads.append(url) or Response()
        )

    def test_is_downloaded_once_and_kept(self, monkeypatch):
        self.answer_with(monkeypatch, self.TEXT)
        assert load_text(["shakespeare"]) == load_text(["shakespeare"]) == self.TEXT.decode()
        assert len(self.downloads) == 1 and self.kept.read_bytes() == self.TEXT

    def test_wrong_text_is_not_kept(self, monkeypatch):
        self.answer_with(monkeypatch, b"<html>")
        with pytest.raises(UserError, match="wrong SHA-256"):
            load_text(["shakespeare"])
        assert not self.kept.exists()

    def test_damaged_cache(self):
        self.kept.parent.mkdir()
        self.kept.write_bytes(b"half")
        with pytest.raises(UserError, match="is damaged"):
            load_text(["shakespeare"])

    def test_no_network(self, monkeypatch):
        def refuse(url, timeout):
            raise urllib.error.URLError("no route")

        monkeypatch.setattr(corpora.urllib.request, "urlopen", refuse)
        with pytest.raises(
            UserError, match="could not be downloaded .no route.: .* put the text at .*tinyshakespeare.txt"
        ):
            load_text(["shakespeare"])


def test_checksum_is_that_of_the_real_text(real_data):
    data = (real_data / "tinyshakespeare.txt").read_bytes()
    assert hashlib.sha256(data).hexdigest() == corpora.SHAKESPEARE_SHA256
