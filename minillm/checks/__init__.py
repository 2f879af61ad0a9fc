"""Checks of gradients and of kernels, and the cases that they run on."""
