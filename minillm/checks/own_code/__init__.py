"""Checks of a user's own file: its layers and forward/backward pairs are found, called and checked.

loading      the file, executed as a module
source       what a function's text tells: its arguments, what it returns, its comments
finding      pairs, losses and layers by their names
shapes       the shapes that comments, docstrings and annotations tell, with a number for each letter
names        what the names of arguments say
values       arrays and settings for the arguments
arguments    which argument of a backward gets what
functions    pairs of functions, called as gradcheck does
objects      the same for objects with forward and backward
scalars      objects that hold their own gradient, an operation at a time
running      all of it, a result for each
"""
