"""Programs that other tests run in processes of their own: pytest imports none of them for its doctests."""

collect_ignore_glob = ["cupy_scripts/*.py", "cupy_functions.py", "cupy_sources.py"]
