"""One HTML file with all it needs inside: it opens from disk, without a network.

Scripts are the modules of look/ and of the page, put one after another. A browser loads no modules
from disk, so `import` and `export` are taken out: a module has its imports on one line each, and
names of its own.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

LOOK = Path(__file__).parent / "look"
IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
EXPORT = re.compile(r"^export (?=async |function |const |let |class )", re.MULTILINE)


def document(title: str, body: str, styles: list[Path], scripts: list[Path], data: dict | None = None) -> str:
    """A whole page. body: HTML. data: for the scripts, as `document.getElementById("data")`."""
    style = "\n".join(path.read_text(encoding="utf-8") for path in [LOOK / "look.css", *styles])
    script = "\n".join(plain_script(path.read_text(encoding="utf-8")) for path in scripts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{body}
{_embedded(data)}<script type="module">
{script}
</script>
</body>
</html>
"""


def plain_script(module: str) -> str:
    """A module without imports and exports.

    >>> plain_script('import { h } from "./dom.js";\\nexport function f() {}\\n')
    'function f() {}\\n'
    """
    return EXPORT.sub("", IMPORT.sub("", module))


def _embedded(data: dict | None) -> str:
    if data is None:
        return ""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{text}</script>\n'
