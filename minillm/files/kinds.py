"""What a file is that is not the kind of file it should be, by its first bytes.

A download that went wrong leaves a file of the right name with something else in it. Its reader
would only find that some number or bracket is odd.
"""

from __future__ import annotations

from pathlib import Path

LOOKED_AT = 512  # bytes
OTHER_FORM = "minillm opens safetensors, GGUF and llama2.c files: get the model in one of these"

_STARTS = (  # first bytes -> what begins so, and what to do
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run git lfs pull in its folder"),
    (b"version https://hawser", "a pointer of Git LFS, not the file itself: run git lfs pull in its folder"),
    (b"# xet version", "a pointer of Xet, not the file itself: fetch the file with hf download"),
    (b"version https://git-annex", "a pointer of git-annex, not the file itself: run git annex get"),
    (b"/annex/objects/", "a pointer of git-annex, not the file itself: run git annex get"),
    (b"\x1f\x8b", "compressed by gzip: unpack it (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it (unzstd)"),
    (b"\xfd7zXZ", "compressed by xz: unpack it (unxz)"),
    (b"BZh", "compressed by bzip2: unpack it (bunzip2)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"GGUF", "a GGUF file: name it itself in place of the folder, and end its name in .gguf"),
    (b"FUGG", f"a GGUF file of a version with its bytes in another order: {OTHER_FORM}"),
    (b"lmgg", "a model of GGML, older than GGUF (ggml): get it as GGUF, or convert it with llama.cpp"),
    (b"fmgg", "a model of GGML, older than GGUF (ggmf): get it as GGUF, or convert it with llama.cpp"),
    (b"tjgg", "a model of GGML, older than GGUF (ggjt): get it as GGUF, or convert it with llama.cpp"),
    (b"algg", "a LoRA of GGML, older than GGUF (ggla): get it in peft's form"),
    (b"\x89HDF\r\n", f"an HDF5 file, as Keras and TensorFlow write it: {OTHER_FORM}"),
    (b"\x93NUMPY", f"an array of NumPy: {OTHER_FORM}"),
    (b"%PDF", "a PDF document"),
)


def misnamed(path: str | Path) -> str | None:
    """What a file is by its first bytes, with what to do: "a web page (HTML): ..."; None for what
    is not known here.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(LOOKED_AT)
    except (FileNotFoundError, IsADirectoryError):
        return None
    if not start:
        return "empty: fetch or copy it again"
    for beginning, kind in _STARTS:
        if start.startswith(beginning):
            return kind
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return "a web page (HTML), not the file itself: the download ended on a page (a login?); fetch it again"
    if text.startswith((b"entry not found", b"access to model", b"invalid username", b"repository not found")):
        return (
            f"an answer of a server ({start[:40].decode('utf-8', 'replace').strip()!r}), not the file: fetch it again"
        )
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it (tar -xf)"
    if not start.strip(b"\0"):
        return "full of zeros at its beginning: the download was not completed; fetch it again"
    return None


def pickled(path: str | Path) -> bool:
    """Whether a file begins as a pickle or PyTorch's archive of one does."""
    with open(path, "rb") as file:
        start = file.read(4)
    return start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
