"""python -m benchmarks.pages: write the figures of benchmarks/results/ into README.md, docs/ and benchmarks/README.md.

Nothing is measured. Which figure goes where is said by marks in the pages (figures.py). --check writes nothing, names the
pages that would change, and ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import sentences, tables  # noqa: F401 - they register what pages show
from benchmarks.figures import PAGES, ROOT, rendered
from minillm.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page would change")
    arguments = parser.parse_args()
    try:
        stale = write_pages(only_check=arguments.check)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    sys.exit(1 if arguments.check and stale else 0)


def write_pages(only_check: bool = False) -> list[str]:
    """The names of the pages that change; they are printed, and written unless this is only a check."""
    fresh = {page: (text := page.read_text(encoding="utf-8"), rendered(text, page)) for page in PAGES if page.exists()}
    changed = [page for page, (before, after) in fresh.items() if before != after]
    for page in changed:
        print(f"{'stale' if only_check else 'wrote'} {page.relative_to(ROOT)}")
        if not only_check:
            page.write_text(fresh[page][1], encoding="utf-8")
    if not changed:
        print("every page has the figures of the result files")
    return [str(page.relative_to(ROOT)) for page in changed]


if __name__ == "__main__":
    main()
