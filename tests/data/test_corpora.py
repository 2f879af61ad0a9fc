"""Texts by name and from files; what is said when one cannot be used."""

import hashlib
import http.client
import io
import os
import sys
import urllib.error
import urllib.request

import pytest

from minillm.data import corpora, load_text, split_text
from minillm.errors import UserError


def test_files_are_joined_in_order_and_nothing_in_them_is_changed(tmp_path):
    (tmp_path / "a.txt").write_bytes(b" one\r\ntwo\r")
    (tmp_path / "b.txt").write_bytes("\u2028drei\u00e4 \n\n".encode())
    paths = [str(tmp_path / name) for name in ("b.txt", "a.txt")]
    assert load_text(paths) == "\u2028drei\u00e4 \n\n one\r\ntwo\r"


def test_python_docs_are_all_topics_in_order_of_their_names():
    from pydoc_data.topics import topics

    text = load_text(["python-docs"])
    assert len(text) == sum(map(len, topics.values())) + 2 * (len(topics) - 1)
    assert text.startswith(topics[min(topics)] + "\n\n")
    assert text.endswith("\n\n" + topics[max(topics)])


def test_split():
    assert split_text("0123456789abcdefghij!") == ("0123456789abcdefgh", "ij!")
    assert split_text("0123", 0.5) == ("01", "23")


def test_a_name_that_is_neither_a_file_nor_a_corpus():
    with pytest.raises(UserError, match="python-docs is a corpus, which cannot be joined"):
        load_text(["python-docs", "more.txt"])
    with pytest.raises(UserError, match="shakspeare is neither a file nor one of the corpora python-docs, shakespeare"):
        load_text(["shakspeare"])


def test_invalid_utf8_names_file_and_offset(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt is not valid UTF-8: byte 0xe4 at offset 1"):
        load_text([str(tmp_path / "latin.txt")])


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match="empty.txt is empty"):
        load_text([str(tmp_path / "empty.txt")])


def test_a_folder(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        load_text([str(tmp_path)])


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "secret.txt").write_text("x")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(corpora.Path, "read_bytes", refuse)  # chmod does not stop root
    with pytest.raises(UserError, match="secret.txt cannot be read: Permission denied"):
        load_text([str(tmp_path / "secret.txt")])


# --------------------------------------------------------------------------------------------------------- shakespeare


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and the place of the text in it."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "minillm" / "tinyshakespeare.txt"


@pytest.fixture
def server(monkeypatch):
    """Takes the place of the network: set `server.answer` to bytes or an exception."""

    class Server:
        answer = b"First Citizen:\r\n"
        requests = 0

        def open(self, url, timeout):
            self.requests += 1
            if isinstance(self.answer, Exception):
                raise self.answer
            return io.BytesIO(self.answer)

    server = Server()
    monkeypatch.setattr(urllib.request, "urlopen", server.open)
    monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", hashlib.sha256(server.answer).hexdigest())
    return server


def test_shakespeare_is_downloaded_once(cache, server):
    assert load_text(["shakespeare"]) == load_text(["shakespeare"]) == "First Citizen:\r\n"
    assert server.requests == 1
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


@pytest.mark.parametrize(
    "failure",
    [urllib.error.URLError("no route to host"), TimeoutError("no route to host"), http.client.IncompleteRead(b"Fi")],
)
def test_without_a_network_the_way_out_is_named(cache, server, failure):
    server.answer = failure
    with pytest.raises(UserError) as caught:
        load_text(["shakespeare"])
    message = str(caught.value)
    assert str(cache) in message and "--data FILE" in message and "\n" not in message
    assert not cache.exists()


def test_the_wrong_text_is_not_kept(cache, server):
    server.answer = b"<html>log in to the hotel network</html>"
    with pytest.raises(UserError, match="wrong SHA-256.*nothing was kept"):
        load_text(["shakespeare"])
    assert not cache.parent.exists()


def test_a_damaged_copy_is_not_used(cache, server):
    cache.parent.mkdir(parents=True)
    cache.write_text("First Citi")
    with pytest.raises(UserError, match="is damaged"):
        load_text(["shakespeare"])


def test_a_cache_folder_that_cannot_be_made(cache, server):
    cache.parent.parent.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        load_text(["shakespeare"])


def test_the_real_text_has_the_expected_checksum(cache, real_data):
    cache.parent.mkdir(parents=True)
    cache.write_bytes((real_data / "tinyshakespeare.txt").read_bytes())
    assert len(load_text(["shakespeare"])) == 1_115_394


@pytest.mark.parametrize(
    "platform, variable, folder",
    [
        ("linux", "XDG_CACHE_HOME", "x/minillm"),
        ("win32", "LOCALAPPDATA", "x/minillm"),
        ("darwin", "HOME", "x/Library/Caches/minillm"),
    ],
)
def test_the_cache_folder_of_each_system(tmp_path, monkeypatch, platform, variable, folder):
    if platform == "darwin" and os.name == "nt":
        pytest.skip("Windows has no HOME")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path / "x"))
    assert corpora.cache_folder() == tmp_path / folder
