"""Real CuPy on a GPU that is not there."""
