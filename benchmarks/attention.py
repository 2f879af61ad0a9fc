"""python -m benchmarks.attention: the ladder of attention kernels beside NumPy, plain CuPy and PyTorch, causal.

    numpy            minillm/layers/attention.py on the CPU, float32
    cupy             the same code on CuPy arrays, without our kernels
    naive ... flash  the rungs, float32
    tensor cores     rung 5 with float32 arrays (TF32) and with bfloat16 arrays
    torch            scaled_dot_product_attention, where PyTorch is installed: on the GPU in float32 and bfloat16, else on the
                     CPU in float32

Sizes on a GPU: 16,384 tokens of 2,048 channels, cut into B sequences of T tokens and H heads of width D, as in the papers on
flash attention. A CPU gets one sequence of two heads; TFLOP/s compare all the same. All ways of a size take turns in every
round; times on a GPU are the device's (gpu_timing.py). Counted are 4 B H T^2 D operations forward, halved because half of the
scores are masked, and 2.5 times that backward. The error is that of head 0 against NumPy in float64, relative and
norm-wise, of forward and of the worst gradient.

With --write: benchmarks/results/attention.json, attention_ladder.png and attention_roofline.png.
"""

from __future__ import annotations

import argparse
import importlib
import time

import numpy as np

from benchmarks.common import RESULTS, write_results
from benchmarks.gpu_timing import device_seconds
from minillm.backend.arrays import to_device, to_host
from minillm.errors import MissingExtra
from minillm.kernels import RUNGS
from minillm.layers import attention as layer
from minillm.profiling.peaks import peaks_of

TIMES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
WIDTHS = (64, 128)
TOKENS, CHANNELS = 16384, 2048  # on a GPU
LONGEST_ON_CPU = 4096  # beyond, a single call of NumPy takes many seconds
DIRECTIONS = ("forward", "backward")


def main() -> None:
    parser = argparse.ArgumentParser(description="attention: NumPy, CuPy, every rung, PyTorch")
    parser.add_argument("--times", type=int, nargs="+", default=TIMES, metavar="T")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, metavar="D")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a batch, on a GPU")
    parser.add_argument("--channels", type=int, default=CHANNELS, help="of all heads, on a GPU")
    parser.add_argument(
        "--only-flash", action="store_true", help="leave NumPy, plain CuPy and the first three rungs out"
    )
    parser.add_argument("--simulate", action="store_true", help="also count each rung's bytes in the simulator")
    parser.add_argument("--only-simulate", action="store_true", help="count, and measure nothing: some seconds")
    parser.add_argument("--write", action="store_true", help="write the results and draw them")
    arguments = parser.parse_args()
    if arguments.only_simulate:
        if arguments.write:
            parser.error("--write belongs to measurements: leave out --only-simulate")
        simulated_counts()
        return
    ways, device, missing = available_ways()
    if arguments.only_flash:
        ways = [way for way in ways if way.name.startswith(("flash", "tensor cores", "torch"))]
    for reason in missing:
        print(f"not measured: {reason}")
    print(f"{'way':<18} {'':<9}{'median ms':>9} {'p20 - p80':>17} {'TFLOP/s':>8} {'share':>6} {'error':>8}")
    rows = []
    for width in arguments.widths:
        for length in arguments.times:
            rows += measure(ways, device, width, length, arguments)
    counts = simulated_counts() if arguments.simulate else []
    if arguments.write:
        write_results("attention", {"gpu": device, "missing": missing, "rows": rows, "simulated": counts})
        draw(rows, device)


# ------------------------------------------------------------------------------------------------- ways to compute


class NumPy:
    """The layer's functions, on the CPU or on CuPy arrays."""

    name, dtype, device = "numpy", "float32", "cpu"
    out_of_memory = MemoryError

    def place(self, arrays):
        self.q, self.k, self.v, self.dy = (to_device(x, self.device) for x in arrays)

    def operation(self):
        return layer

    def forward(self):
        y, self._saved = self.operation().attention_forward(self.q, self.k, self.v)
        return y

    def backward(self):
        return self.operation().attention_backward(self.dy, self._saved)

    def wait(self):
        pass

    def host(self, array):
        return to_host(array)


class CuPy(NumPy):
    """On the GPU, without our kernels."""

    name, device = "cupy", "cuda"

    @property
    def out_of_memory(self):
        return importlib.import_module("cupy").cuda.memory.OutOfMemoryError

    def wait(self):
        importlib.import_module("cupy").cuda.Device().synchronize()


class Rung(CuPy):
    """One of our kernels."""

    def __init__(self, rung, dtype="float32"):
        self.rung, self.dtype = rung, dtype
        on_tensor_cores = f"tensor cores {'tf32' if dtype == 'float32' else 'bf16'}"
        self.name = on_tensor_cores if rung == "flash_tensor_cores" else rung

    def operation(self):
        return importlib.import_module(f"minillm.kernels.attention.{self.rung}")


class Torch:
    """scaled_dot_product_attention and its gradient."""

    def __init__(self, device, dtype):
        self.torch = importlib.import_module("torch")
        self.device, self.dtype = device, dtype
        self.out_of_memory = self.torch.OutOfMemoryError
        self.name = f"torch {device} {'bf16' if dtype == 'bfloat16' else 'float32'}"

    def place(self, arrays):
        q, k, v, dy = (
            self.torch.from_numpy(np.asarray(x, np.float32)).to(self.device, getattr(self.torch, self.dtype))
            for x in arrays
        )
        self.inputs, self.dy = [x.requires_grad_() for x in (q, k, v)], dy

    def forward(self):
        self._y = self.torch.nn.functional.scaled_dot_product_attention(*self.inputs, is_causal=True)
        return self._y

    def backward(self):
        return self.torch.autograd.grad(self._y, self.inputs, self.dy, retain_graph=True)

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def host(self, tensor):
        return tensor.detach().float().cpu().numpy()


def available_ways() -> tuple[list, str | None, list[str]]:
    """The ways that this machine can go, the name of its GPU if it has one, and for each other way why it cannot."""
    ways, device, missing = [NumPy()], None, []
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        cupy = None
        missing.append('cupy and every rung: CuPy is not installed (pip install "minillm[cuda13]", and an NVIDIA GPU)')
    if cupy and not cupy.cuda.is_available():
        missing.append("cupy and every rung: CuPy finds no NVIDIA GPU")
    elif cupy:
        device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        ways += [CuPy(), *map(Rung, RUNGS), Rung("flash_tensor_cores", "bfloat16")]
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        missing.append("torch: PyTorch is not installed (pip install torch)")
        return ways, device, missing
    if torch.cuda.is_available():
        ways += [Torch("cuda", "float32"), Torch("cuda", "bfloat16")]
    else:
        ways.append(Torch("cpu", "float32"))
        missing.append("torch on a GPU: PyTorch finds none")
    return ways, device, missing


# ---------------------------------------------------------------------------------------------------- measurements


def measure(ways, device, width, length, arguments) -> list[dict]:
    """Times and errors of all ways for one size: rows of the table, which are printed too."""
    repeats = arguments.repeats
    print(f"D = {width}, T = {length}, {repeats} rounds of {', '.join(way.name for way in ways)}", flush=True)
    rng = np.random.default_rng(0)
    head = rng.normal(size=(4, 1, 1, length, width)).astype(np.float32)  # q, k, v, dy of head 0
    given = {dtype: head.astype(number_type(dtype)) for dtype in {way.dtype for way in ways}}
    expected = {dtype: in_float64(arrays) for dtype, arrays in given.items()}
    ready, drawn = [], {}
    for way in ways:
        shape = shape_for(way, width, length, arguments.tokens, arguments.channels)
        if way.device == "cpu" and length > LONGEST_ON_CPU:
            print(f"{way.name:<18} left out: on a CPU up to T = {LONGEST_ON_CPU:,}")
            continue
        if shape not in drawn:
            drawn[shape] = rng.standard_normal(size=(4, *shape), dtype=np.float32)
        arrays = drawn[shape].astype(given[way.dtype].dtype)
        arrays[:, :1, :1] = given[way.dtype]
        try:
            way.place(arrays)
            y = way.host(way.forward()[:1, :1])
            gradients = [way.host(x[:1, :1]) for x in way.backward()]
        except way.out_of_memory:
            print(f"{way.name:<18} out of memory")
            continue
        right_y, *right_gradients = expected[way.dtype]
        errors = relative(y, right_y), max(map(relative, gradients, right_gradients))
        ready.append((way, shape, dict(zip(DIRECTIONS, errors))))
    rows = []
    for direction in DIRECTIONS:
        times = {way.name: [] for way, _, _ in ready}
        for turn in range(repeats + 1):
            for way, _, _ in ready:
                seconds = timed(way, direction)
                if turn:  # the first turn warms up
                    times[way.name].append(seconds)
        for way, shape, errors in ready:
            row = describe(way, device, direction, shape, times[way.name], errors[direction])
            rows.append(row)
            print(line(row))
    return rows


def shape_for(way, width, length, tokens, channels) -> tuple[int, int, int, int]:
    """(B, H, T, D)"""
    if way.device == "cpu":
        return 1, 2, length, width
    return max(1, tokens // length), channels // width, length, width


def number_type(dtype):
    return np.dtype(importlib.import_module("ml_dtypes").bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


def in_float64(arrays):
    q, k, v, dy = (x.astype(np.float64) for x in arrays)
    y, saved = layer.attention_forward(q, k, v)
    return y, *layer.attention_backward(dy, saved)


def relative(actual, expected) -> float:
    return float(np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected))


def timed(way, direction) -> float:
    """Seconds of one call, by the device's clock on a GPU.

    A backward pass needs a forward pass of its own, because some write over what forward saved. It is not counted.
    """
    if way.device == "cuda":
        forward = device_seconds(lambda number: way.forward())
        return forward if direction == "forward" else device_seconds(lambda number: there_and_back(way)) - forward
    if direction == "backward":
        way.forward()
    started = time.perf_counter()
    way.forward() if direction == "forward" else way.backward()
    return time.perf_counter() - started


def there_and_back(way) -> None:
    way.forward()
    way.backward()


def describe(way, device, direction, shape, seconds, error) -> dict:
    p20, p80 = np.quantile(seconds, [0.2, 0.8])
    median = float(np.median(seconds))
    batch, heads, length, width = shape
    operations = 4 * batch * heads * length**2 * width / 2 * (1 if direction == "forward" else 2.5)
    itemsize = 2 if way.dtype == "bfloat16" else 4
    moved = (
        batch * heads * length * width * itemsize * (4 if direction == "forward" else 8)
    )  # q, k, v, y; and dy, dq, dk, dv
    peaks = peaks_of(device) if device and way.device != "cpu" else None
    peak = peaks and getattr(peaks, unit_of(way))
    return {
        "way": way.name,
        "direction": direction,
        "shape": dict(zip("BHTD", shape)),
        "median_ms": 1e3 * median,
        "p20_ms": 1e3 * float(p20),
        "p80_ms": 1e3 * float(p80),
        "tflops": operations / median / 1e12,
        "share_of_peak": operations / median / 1e12 / peak if peak else None,
        "gigabytes_per_second": moved / median / 1e9,
        "share_of_bandwidth": moved / median / 1e9 / peaks.bandwidth if peaks else None,
        "operations_per_byte": operations / moved,
        "error": error,
    }


def unit_of(way) -> str:
    """Which of the device's units do the products."""
    if way.dtype == "bfloat16":
        return "bfloat16"
    return "tf32" if way.name.endswith("tf32") else "float32"


def line(row) -> str:
    spread = f"{row['p20_ms']:.5g} - {row['p80_ms']:.5g}"
    share = f"{row['share_of_peak']:.0%}" if row["share_of_peak"] else "n/a"
    return (
        f"{row['way']:<18} {row['direction']:<9}{row['median_ms']:>9.3f} "
        f"{spread:>17} {row['tflops']:>8.3f} {share:>6} {row['error']:>8.1e}"
    )


def simulated_counts(width=64, length=128) -> list[dict]:
    """What each rung reads and writes for one head, counted by the simulator: a table, printed too."""
    from minillm.kernels.simulator import configured

    rng = np.random.default_rng(0)
    arrays = [to_device(rng.normal(size=(1, 1, length, width)).astype(np.float32), "cudasim") for _ in range(4)]
    print(f"counted in the simulator: one head, T = {length}, D = {width}, causal")
    print("of ideal: relative to the same bytes in neighbouring addresses", flush=True)
    print(f"{'rung':<18} {'':<9}{'global bytes':>13} {'of ideal':>9} {'wavefronts':>11} {'of ideal':>9}")
    counts = []
    for name in RUNGS:
        rung = importlib.import_module(f"minillm.kernels.attention.{name}")
        with configured(mode="profile") as forward:
            _, saved = rung.attention_forward(*arrays[:3])
        with configured(mode="profile") as backward:
            rung.attention_backward(arrays[3], saved)
        for direction, profile in zip(DIRECTIONS, (forward, backward)):
            memory, shared = profile.total("global"), profile.total("shared")
            row = {
                "rung": name,
                "direction": direction,
                "global_bytes": 32 * memory.actual,
                "global_of_ideal": memory.actual / memory.ideal,
                "shared_wavefronts": shared.actual,
                "shared_of_ideal": shared.actual / shared.ideal if shared.ideal else None,
            }
            counts.append(row)
            ratio = f"{row['shared_of_ideal']:.2f}" if shared.ideal else "n/a"
            print(
                f"{name:<18} {direction:<9}{row['global_bytes']:>13,} {row['global_of_ideal']:>9.2f} "
                f"{shared.actual:>11,} {ratio:>9}",
                flush=True,
            )
    return counts


# --------------------------------------------------------------------------------------------------------- pictures


def draw(rows, device) -> None:
    """The ladder: TFLOP/s over T. The roofline: TFLOP/s over operations per byte. Needs the extra `plots`."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter
    except ImportError:
        raise MissingExtra("drawing the results", "matplotlib", "plots") from None
    widths = sorted({row["shape"]["D"] for row in rows})
    figure = Figure(figsize=(6 * len(widths), 8), layout="constrained")
    axes = figure.subplots(2, len(widths), squeeze=False)
    for column, width in enumerate(widths):
        for axis, direction in zip(axes[:, column], DIRECTIONS):
            for name in dict.fromkeys(row["way"] for row in rows):
                points = [r for r in rows if (r["way"], r["direction"], r["shape"]["D"]) == (name, direction, width)]
                axis.plot([r["shape"]["T"] for r in points], [r["tflops"] for r in points], "o-", label=name)
            axis.set(
                xscale="log",
                yscale="log",
                xlabel="tokens T",
                ylabel="TFLOP/s",
                title=f"{direction}, D = {width}, causal",
            )
            axis.set_xscale("log", base=2)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].legend()
    figure.suptitle(f"attention on {device or 'the CPU'}")
    figure.savefig(RESULTS / "attention_ladder.png", dpi=120)
    print("wrote benchmarks/results/attention_ladder.png")
    peaks = peaks_of(device) if device else None
    if peaks is None:
        print(f"no roofline: the peaks of {device or 'this CPU'} are not known (minillm/profiling/peaks.py)")
        return

    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    for name in dict.fromkeys(row["way"] for row in rows):
        points = [row for row in rows if row["way"] == name]
        axis.plot([r["operations_per_byte"] for r in points], [r["tflops"] for r in points], "o", label=name)
    intensity = np.geomspace(10, max(row["operations_per_byte"] for row in rows) * 2, 100)
    for unit in ("float32", "tf32", "bfloat16"):
        if getattr(peaks, unit):
            roof = np.minimum(intensity * peaks.bandwidth / 1e3, getattr(peaks, unit))
            axis.plot(intensity, roof, "k-", linewidth=0.8)
            axis.annotate(unit, (intensity[-1], roof[-1]))
    axis.set(xscale="log", yscale="log", xlabel="operations per byte that has to be moved", ylabel="TFLOP/s")
    axis.legend()
    axis.set_title(f"roofline, {device}")
    figure.savefig(RESULTS / "attention_roofline.png", dpi=120)
    print("wrote benchmarks/results/attention_roofline.png")


if __name__ == "__main__":
    main()
