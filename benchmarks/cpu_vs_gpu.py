"""python -m benchmarks.cpu_vs_gpu: from which model size on a GPU pays, layer by layer and for the whole training step.

Each layer of a GPT-2 of some widths runs forward and backward on the CPU (NumPy, all cores) and on the GPU (CuPy and our
kernels), in turns; the whole step is that of a model of 4 layers, and AdamW updates its weights. A GPU call is timed until the
device is done. Work below some size is over before a GPU has begun: `pays from` is the smallest width from which on
the GPU is faster at all larger ones, too.

Without a GPU the CPU's times are printed alone, and nothing is written. --write makes benchmarks/results/cpu_vs_gpu.json and
cpu_vs_gpu.png from a run with a GPU. (--device cudasim runs the kernels in the simulator: the way is tried, its times mean
nothing, and it cannot be written.)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median

import numpy as np

import minillm
from benchmarks import common
from benchmarks.train_step import MinillmTrainer
from minillm.backend.arrays import to_device
from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.optim import clip

WIDTHS = (64, 128, 256, 384, 512, 768, 1024)
LAYERS_OF_STEP = 4


def main() -> None:
    arguments = parse_arguments()
    devices = ["cpu", *usable(arguments.device)]
    rows = []
    print(f"{arguments.batch_size} x {arguments.context_length} tokens; milliseconds, forward and backward")
    heads = [*devices, *(["cpu / gpu"] if len(devices) > 1 else [])]
    print(f"{'layer':<15} {'d_model':>7} {''.join(f'{head:>12}' for head in heads)}")
    for width in arguments.widths:
        for name, times in measure(width, devices, arguments).items():
            rows.append({"layer": name, "d_model": width, **times})
            print(line(rows[-1], devices))
    if devices[1:] == ["cuda"]:
        found = pays_from(rows, "cuda")
        for name, width in found.items():
            print(f"{name}: the GPU pays {f'from d_model {width} on' if width else 'at none of these widths'}")
        if arguments.write:
            write(rows, found, arguments)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cudasim"), default="cuda")
    parser.add_argument("--dtype", choices=("float32", "tf32", "bfloat16"), default="float32", help="on the GPU")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="multiples of 64: heads are 64 wide")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--context-length", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write a result file and a chart, if there is a GPU")
    arguments = parser.parse_args()
    if any(width % 64 for width in arguments.widths):
        parser.error("--widths: heads are 64 wide, so a width is a multiple of 64")
    if arguments.write and arguments.device != "cuda":
        parser.error("--write: what the simulator takes says nothing of a GPU")
    return arguments


def usable(device: str) -> list[str]:
    """[device] if this machine has it; else none, and why is printed."""
    try:
        to_device(np.zeros(1), device)
    except UserError as error:
        print(f"no GPU: {error}")
        return []
    return [device]


# ---------------------------------------------------------------------------------------------------------- measuring


def measure(width: int, devices: list[str], arguments) -> dict[str, dict[str, float]]:
    """Layer -> device -> milliseconds, all devices in turns."""
    pieces = {device: pieces_of(width, device, arguments) for device in devices}
    times = {name: {device: [] for device in devices} for name in pieces["cpu"]}
    for turn in range(arguments.repeats + 1):
        for device in devices:
            for name, (work, surroundings) in pieces[device].items():
                with surroundings:
                    seconds = seconds_of(work, device)
                if turn:  # the first one compiles and fills pools
                    times[name][device].append(seconds)
    return {name: {device: 1e3 * median(taken) for device, taken in each.items()} for name, each in times.items()}


def pieces_of(width: int, device: str, arguments) -> dict[str, tuple[Callable, AbstractContextManager]]:
    """Name -> a function that does the layer's forward and backward once, on the device, and what it is to be called in.

    A single layer has all cores for its products; the whole step shares the batch among workers, as training does.
    """
    batch, time_ = arguments.batch_size, arguments.context_length
    config = minillm.GPT2Config(
        vocab_size=arguments.vocab_size,
        context_length=time_,
        n_layer=LAYERS_OF_STEP,
        n_head=width // 64,
        d_model=width,
    )
    dtype = arguments.dtype if device != "cpu" else "float32"
    windows = stream(0, "windows").integers(arguments.vocab_size, (batch, time_ + 1))
    ids, targets = windows[:, :-1], windows[:, 1:]
    trainer = MinillmTrainer(config, (ids, targets), device, dtype, processes=1)
    body, head = trainer.model.body, trainer.model.loss_head
    block = body.h[0]
    here = [to_device(np.ascontiguousarray(array), device) for array in (ids, targets)]
    x = to_device(stream(0, "x").normal((batch, time_, width)).astype(body.activations or np.float32), device)

    def there_and_back(layer):
        def run():
            layer.forward(x)
            layer.backward(x)
            layer.zero_grad()

        return run

    other = MinillmTrainer(config, (ids, targets), device, dtype, processes=1)  # whose gradients stay
    with other:
        other.parallel.loss_and_gradients(ids, targets)

    def update():
        _, scale = clip(other.optimizer.parameters, 1.0)
        other.optimizer.step(scale)

    def embedding():
        body.wte.forward(here[0], body.activations)
        body.wte.backward(x)
        body.wte.zero_grad()

    def loss():
        head.forward(x, here[1], batch * time_)
        head.backward()
        head.zero_grad()

    layers = {
        "embedding": embedding,
        "layer norm": there_and_back(block.ln_1),
        "attention": there_and_back(block.attn),
        "MLP": there_and_back(block.mlp),
        "head and loss": loss,
        "clip and AdamW": update,
    }
    pieces = {name: (work, nullcontext()) for name, work in layers.items()}
    return {**pieces, "whole step": (lambda: trainer.step(ids, targets), trainer)}


def seconds_of(work: Callable, device: str) -> float:
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def wait(device: str) -> None:
    """Wait until the GPU has finished."""
    if device == "cuda":
        import cupy

        cupy.cuda.Device().synchronize()


# ------------------------------------------------------------------------------------------------------------ results


def line(row: dict, devices: list[str]) -> str:
    times = "".join(f"{row[device]:>12.3f}" for device in devices)
    ratio = f"{row['cpu'] / row[devices[1]]:>12.2f}" if len(devices) > 1 else ""
    return f"{row['layer']:<15} {row['d_model']:>7} {times}{ratio}"


def pays_from(rows: list[dict], device: str) -> dict[str, int | None]:
    """Layer -> the smallest width at which, and at all larger ones, the device is faster than the CPU.

    >>> times = [(64, 1, 2), (128, 3, 2), (256, 3, 4), (512, 9, 5), (768, 9, 5)]
    >>> pays_from([{"layer": "MLP", "d_model": w, "cpu": c, "cuda": g} for w, c, g in times], "cuda")
    {'MLP': 512}
    """
    found: dict[str, int | None] = {}
    for name in dict.fromkeys(row["layer"] for row in rows):
        found[name] = None
        for row in sorted((row for row in rows if row["layer"] == name), key=lambda row: -row["d_model"]):
            if row[device] >= row["cpu"]:
                break
            found[name] = row["d_model"]
    return found


def write(rows, found, arguments) -> None:
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    sizes = {key: getattr(arguments, key) for key in ("batch_size", "context_length", "vocab_size", "dtype")}
    common.write_results("cpu_vs_gpu", {"device": name, **sizes, "pays_from": found, "rows": rows})
    draw(rows, found, "cuda", f"{name} and {common.processor()}, {arguments.dtype}", common.RESULTS / "cpu_vs_gpu.png")


def draw(rows: list[dict], found: dict, device: str, title: str, path) -> None:
    """One panel a layer: milliseconds over d_model, both logarithmic, and a line from where the GPU pays."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["layer"] for row in rows))
    figure = Figure(figsize=(11, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(2, -(-len(names) // 2)).flat, names):
        of_layer = [row for row in rows if row["layer"] == name]
        widths = [row["d_model"] for row in of_layer]
        for where, marker in (("cpu", "o"), (device, "s")):
            axes.plot(widths, [row[where] for row in of_layer], marker=marker, markersize=4, label=where)
        if found[name]:
            axes.axvline(found[name], color="0.7", linestyle="--")
        axes.set(xscale="log", yscale="log", title=name, xlabel="d_model", ylabel="ms")
        axes.set_xticks(widths, labels=[str(width) for width in widths])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"forward and backward: {title}")
    figure.savefig(path)
    print(f"wrote {path.relative_to(path.parents[2]) if path.is_relative_to(common.RESULTS) else path}")


if __name__ == "__main__":
    main()
