"""Networks and devices by name: figures from public specifications, and those that are assumed.

Bandwidth is the maker's, one way. Latency is what a message costs a program, and no specification
has it: it is assumed, but for NCCL, whose own model of its cost is public.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.collective_costs import Algorithm, Link, Network, direct_exchange, ring
from minillm.profiling.peaks import PEAKS

GIGABIT, MICROSECOND = 1e9 / 8, 1e-6

# NCCL's tuning (src/graph/tuning.cc of github.com/NVIDIA/nccl, ring, protocol "Simple"): a step
# costs 3.4 us over NVLink and 9.6 us over the network.
NCCL_NVLINK, NCCL_NETWORK = 3.4 * MICROSECOND, 9.6 * MICROSECOND

TCP, ROCE, INFINIBAND = 30 * MICROSECOND, 5 * MICROSECOND, 2 * MICROSECOND  # assumed, of MPI from Python

SHARE_OF_PEAK = 0.4  # assumed: what training reaches of a GPU's peak in bfloat16


@dataclass(frozen=True)
class Device:
    """What computes: operations a second, bytes of memory, bytes a second of it. parts: how many
    parts of a batch it computes at once, a row each at least.
    """

    name: str
    operations: float
    memory: float
    bandwidth: float
    parts: int = 1


@dataclass(frozen=True)
class Cluster:
    """A device in each rank, the network between them, and the algorithm of its collectives."""

    name: str
    device: Device
    network: Network
    algorithm: Algorithm
    source: str


def gpu(name: str, memory: float) -> Device:
    """A GPU of profiling/peaks.py."""
    peaks = PEAKS[name]
    return Device(name, SHARE_OF_PEAK * peaks.bfloat16 * 1e12, memory, peaks.bandwidth * 1e9)


A100 = gpu("NVIDIA A100-SXM4-80GB", 80e9)
H100 = gpu("NVIDIA H100 80GB HBM3", 80e9)

TEN = Network(Link(TCP, 10 * GIGABIT))
TWENTY_FIVE = Network(Link(TCP, 25 * GIGABIT))
HUNDRED = Network(Link(ROCE, 100 * GIGABIT))
HDR = Network(Link(INFINIBAND, 200 * GIGABIT))

ETHERNET = "IEEE 802.3ae (10), 802.3by (25), 802.3ba (100)"


def servers(device: Device) -> list[Cluster]:
    """Servers without a GPU, one rank each, under MPI."""
    return [
        Cluster("servers, 10 GbE", device, TEN, direct_exchange, ETHERNET),
        Cluster("servers, 25 GbE", device, TWENTY_FIVE, direct_exchange, ETHERNET),
        Cluster("servers, 100 GbE", device, HUNDRED, direct_exchange, ETHERNET),
        Cluster("servers, HDR", device, HDR, direct_exchange, "InfiniBand HDR: InfiniBand Trade Association, roadmap"),
    ]


def _one_gpu(gigabits: float) -> Network:
    return Network(Link(NCCL_NETWORK, gigabits * GIGABIT))


def _node_of_eight(inside: float, gigabits: float) -> Network:
    """Eight GPUs with NVSwitch between them, and an adapter for each."""
    return Network(Link(NCCL_NETWORK, gigabits * GIGABIT), Link(NCCL_NVLINK, inside), ranks=8, adapters=8)


GPU_CLUSTERS = [
    Cluster("A100, 10 GbE", A100, _one_gpu(10), ring, ETHERNET),
    Cluster("A100, 25 GbE", A100, _one_gpu(25), ring, ETHERNET),
    Cluster("A100, 100 GbE", A100, _one_gpu(100), ring, ETHERNET),
    Cluster("A100, HDR", A100, _one_gpu(200), ring, "InfiniBand HDR"),
    Cluster("8 A100 a node, HDR", A100, _node_of_eight(300e9, 200), ring, "NVIDIA, data sheet of the DGX A100"),
    Cluster("H100, NDR", H100, _one_gpu(400), ring, "InfiniBand NDR"),
    Cluster("8 H100 a node, NDR", H100, _node_of_eight(450e9, 400), ring, "NVIDIA, data sheet of the DGX H100"),
]
