"""Kernels and backward passes to be written by the reader: `minillm exercise`.

registry.py lists them. Each is a folder: text.md is the task, skeleton.cu or skeleton.py what the
reader begins with, hints.md a hint a paragraph, judge.py what the result is compared with. The
judging itself is in minillm/checks/exercises.
"""
