"""What devices can do at most: the denominators of "share of peak".

Numbers are the makers' for dense matrices at boost clock, in TFLOP/s, with float32 accumulation,
and memory in GB/s. A device that is not in the table has none ("n/a"): no figure is guessed.
Sources: NVIDIA's data sheets and architecture white papers of the T4, A100, RTX 3090 (GA102), RTX
4090 (AD102), L4, H100 and H200.
"""

from __future__ import annotations

from typing import NamedTuple


class Peaks(NamedTuple):
    """TFLOP/s by type of operand (None: the device has no such units), and GB/s to and from its
    memory.
    """

    float32: float
    tf32: float | None
    bfloat16: float | None
    bandwidth: float


PEAKS = {
    "Tesla T4": Peaks(8.1, None, None, 320),
    "NVIDIA A100-SXM4-40GB": Peaks(19.5, 156, 312, 1555),
    "NVIDIA A100-SXM4-80GB": Peaks(19.5, 156, 312, 2039),
    "NVIDIA GeForce RTX 3090": Peaks(35.6, 35.6, 71, 936),
    "NVIDIA GeForce RTX 4090": Peaks(82.6, 82.6, 165.2, 1008),
    "NVIDIA L4": Peaks(30.3, 60, 121, 300),
    "NVIDIA H100 PCIe": Peaks(51.2, 378, 756, 2039),
    "NVIDIA H100 80GB HBM3": Peaks(66.9, 494.7, 989.4, 3352),
    "NVIDIA H200": Peaks(66.9, 494.7, 989.4, 4800),
}


def peaks_of(device: str) -> Peaks | None:
    """The peaks of a device by the name that its driver gives it; None for one that is not in the
    table.
    """
    return PEAKS.get(device)
