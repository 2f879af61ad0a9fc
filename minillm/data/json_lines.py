"""Files of JSON objects, one a line (.jsonl), as data sets for chat models are written.

What editors and exports leave in such files is read as it is meant: a mark (BOM) at the start,
CRLF, blank lines, spaces at the ends, and one JSON array of objects in place of lines.
"""

from __future__ import annotations

import json
from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import refuse_utf_16

BOM = "\ufeff"  # in the middle of a file too, where files with one were joined
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "parquet"}


def read_objects(path: str | Path) -> list[tuple[str, dict]]:
    """(where, object) for each JSON object of a file; where: "FILE, line 3", for messages.

    Raises UserError, naming file, line and cure, for a file that cannot be read, is empty, packed
    or no UTF-8, and for a line that is no JSON object.
    """
    path = Path(path)
    text = _text_of(path)
    if text.lstrip(BOM + " \t\r\n").startswith("["):
        objects = _of_array(path, text)
    else:
        # not splitlines: JSON may have U+2028 and other ends of lines inside of a string
        lines = [(number, line.strip(BOM + " \t\r")) for number, line in enumerate(text.split("\n"), start=1)]
        lines = [(number, line) for number, line in lines if line]
        objects = [
            (f"{path}, line {number}", _parsed(path, number, line, number == lines[-1][0])) for number, line in lines
        ]
    if not objects:
        raise UserError(f"{path} is empty: it has to hold a JSON object in each line")
    for where, found in objects:
        if not isinstance(found, dict):
            raise UserError(f'{where}: it is {kind_of_json(found)}, not an object such as {{"messages": [...]}}')
    return objects


def kind_of_json(value) -> str:
    """What a JSON value is called.

    >>> kind_of_json([]), kind_of_json(None)
    ('a list', 'null')
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return {dict: "an object", list: "a list", str: "a text"}.get(type(value), "a number")


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a file of JSON lines") from None
    except OSError as error:
        if path.is_dir():  # Windows says "permission denied"
            raise UserError(f"{path} is a folder: name the files in it, such as {path}/*.jsonl") from None
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    packed = next((name for mark, name in PACKED.items() if data.startswith(mark)), None)
    if packed:
        raise UserError(f"{path} is a {packed} file: unpack it to JSON lines first")
    refuse_utf_16(data, str(path))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is no UTF-8: save the file as UTF-8"
        ) from None


def _of_array(path: Path, text: str) -> list[tuple[str, dict]]:
    try:
        found = json.loads(text.strip(BOM + " \t\r\n"))
    except RecursionError:
        raise UserError(f"{path}: its JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise UserError(
                f"{path}, line {error.lineno}: it begins with a JSON array, and more follows: write an object in each "
                "line, or one array alone"
            ) from None
        raise UserError(f"{path}, line {error.lineno}: its JSON array breaks off or is wrong: {error.msg}") from None
    return [(f"{path}, entry {number}", each) for number, each in enumerate(found, start=1)]


def _parsed(path: Path, number: int, line: str, is_last: bool):
    try:
        return json.loads(line)
    except RecursionError:
        raise UserError(f"{path}, line {number}: its JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: {_what_is_wrong(line, error, is_last)}") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}, line {number}: {error}") from None


def _what_is_wrong(line: str, error: json.JSONDecodeError, is_last: bool) -> str:
    at_end = error.pos >= len(line) or error.msg.startswith("Unterminated string")
    if error.msg == "Extra data":
        following = line[error.pos :].lstrip()
        if following == ",":
            return "a comma follows the object: objects in lines have none between them; take it away"
        return f"more follows the object, {following[:20]!r}: write each object in a line of its own"
    if at_end and is_last:
        return "the line breaks off, the file is cut short: write it again, or delete the line"
    if at_end:
        return "the object does not end in this line: write each object in one line, without line breaks"
    if line.startswith("{'"):
        return 'it is written as Python, not JSON: use double quotes, {"messages": ...}'
    return f"no JSON at column {error.pos + 1}, {line[error.pos : error.pos + 20]!r} ({error.msg})"
