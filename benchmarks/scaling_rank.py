"""One process of a contestant of benchmarks/scaling.py: it does what it is sent over a socket, and answers with seconds.
Each message is a line of JSON.

    ["steps", k, n]                  k steps that are not counted, then n: the seconds of each
    ["parts", k, n]                  the same of forward and backward, and of the update after each
    ["collective", name, size, n]    n times a collective on an array of so many bytes
    ["end"]

While it waits for the next, it sleeps: the cores are free for the contestant whose turn it is.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from contextlib import nullcontext
from types import SimpleNamespace

import minillm


def main() -> None:
    arguments = parse_arguments()
    config = minillm.GPT2Config(
        vocab_size=arguments.vocab_size,
        context_length=arguments.context_length,
        n_layer=arguments.n_layer,
        n_head=arguments.n_head,
        d_model=arguments.d_model,
        dropout=0.0,
        bias=arguments.bias,
    )
    if arguments.kind == "torch":
        serve_torch(arguments, config)
        return
    with communicator_of(arguments) as communicator:
        trainer = trainer_of(arguments, config, communicator)
        with trainer:
            serve(arguments, arguments.rank if arguments.kind == "part" else communicator.rank, trainer)
        if arguments.kind == "mpi":
            communicator.close()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("threads", "processes", "mpi", "torch", "part"))
    parser.add_argument("--task", choices=("train", "collectives"), default="train")
    parser.add_argument("--address", help="of the socket")
    parser.add_argument("--name", help="of the contestant")
    parser.add_argument("--store", default="", help="a file in which ranks of PyTorch find each other")
    for name in ("rank", "ranks", "threads", "batch-size", "largest"):
        parser.add_argument(f"--{name}", type=int, default=1)
    for name in ("vocab-size", "context-length", "n-layer", "n-head", "d-model"):
        parser.add_argument(f"--{name}", type=int, default=8)
    parser.add_argument("--bias", action="store_true")
    return parser.parse_args()


def communicator_of(arguments):
    """A context manager that gives the communicator."""
    if arguments.kind == "processes":
        from minillm.distributed.workers import Workers

        return Workers(arguments.ranks)
    if arguments.kind == "mpi":
        from minillm.distributed.launch import world

        return nullcontext(world())
    from minillm.distributed.alone import Alone

    return nullcontext(Alone())


def trainer_of(arguments, config, communicator):
    from benchmarks.scaling_trainers import CollectiveTimer, OurTrainer, PartTrainer

    if arguments.task == "collectives":
        return CollectiveTimer(communicator, arguments.largest)
    if arguments.kind == "part":
        return PartTrainer(config, arguments.batch_size, arguments.rank, arguments.ranks)
    return OurTrainer(config, arguments.batch_size, communicator, arguments.threads)


def serve_torch(arguments, config) -> None:
    from benchmarks.scaling_trainers import batch_of
    from benchmarks.torch_ddp import DDPTrainer
    from minillm.distributed.tree import parts_of

    rows = parts_of(arguments.rank, arguments.ranks, arguments.batch_size)
    part = [array[rows.start : rows.stop].copy() for array in batch_of(config, arguments.batch_size)]
    trainer = DDPTrainer(config, arguments.rank, arguments.ranks, arguments.threads, arguments.store)
    serve(arguments, arguments.rank, SimpleNamespace(step=lambda: trainer.step(*part)))
    trainer.close()


def serve(arguments, rank: int, trainer) -> None:
    """Do what comes, until the end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(arguments.address)
        messages = connection.makefile("rw", encoding="utf-8")
        found = [rank, os.getpid()]
        while True:
            messages.write(json.dumps(found) + "\n")
            messages.flush()
            what, *details = json.loads(messages.readline())
            if what == "end":
                return
            found = answer(trainer, what, *details)


def answer(trainer, what: str, *details) -> list[float]:
    if what == "steps":
        uncounted, count = details
        return [seconds_of(trainer.step) for _ in range(uncounted + count)][uncounted:]
    if what == "parts":
        uncounted, count = details
        pairs = [(seconds_of(trainer.step), trainer.update()) for _ in range(uncounted + count)]
        return [seconds for pair in pairs[uncounted:] for seconds in pair]
    name, size, count = details
    trainer.time(name, size)
    return [trainer.time(name, size) for _ in range(count)]


def seconds_of(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
