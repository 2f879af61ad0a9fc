"""The judge of `minillm exercise`: whether a reader's file is right, and what it asks of memory.

The tasks themselves are in kernels/exercises.
"""
