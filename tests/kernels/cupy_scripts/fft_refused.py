"""What needs cuFFT ends with an exception that names it."""

import cupy as cp

x = cp.exp(2j * cp.pi * cp.arange(8) / 8)
try:
    cp.fft.fft(x)
except Exception as error:
    print(type(error).__name__, "names cuFFT:", "cufft" in str(error).lower())
else:
    raise AssertionError("cuFFT is not there")
