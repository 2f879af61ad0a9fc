"""The basis of all other parts: arrays and devices, random streams, precision, matrix products,
threads.

array_module(x)                        the library that works on an array: numpy or cupy        arrays.py
to_device(x, "cudasim"), to_host(x)    an array on another device                               arrays.py
stream(seed, "dropout", step)          random numbers that are a function of their key          random_streams.py
"""

from minillm.backend.arrays import array_module, device_of, to_device, to_host
from minillm.backend.random_streams import stream

__all__ = ["array_module", "device_of", "stream", "to_device", "to_host"]
