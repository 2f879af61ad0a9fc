"""The basis of all other parts: arrays and devices, random streams, precision, matrix products,
threads.

from minillm.backend.arrays import array_module, to_device      which library works on an array, and where it lives
from minillm.backend.random_streams import stream               random numbers that are a function of a key
"""
