"""A module of a few lines, to make mutants of."""

import importlib.util


def module_of(folder, text, name="subject"):
    """A module with this source."""
    path = folder / f"{name}.py"
    path.write_text("import numpy as np\n\n\n" + text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
