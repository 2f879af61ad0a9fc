"""From measured parts of a step to a predicted step, by the model of scale_model.py."""

from __future__ import annotations

import numpy as np

from benchmarks.collective_costs import Link
from benchmarks.scale_model import TRAFFIC_OF_UPDATE, Collectives, Plan, Work, sections_of, step_seconds
from minillm.profiling.memory import count_parameters


def fitted(seconds: dict[int, float]) -> Link:
    """Bytes -> seconds as a latency and a bandwidth: the line with the least squares of relative errors.

    >>> fitted({1000: 3e-6, 1_000_000: 1002e-6, 4_000_000: 4002e-6})
    Link(latency=2e-06, bandwidth=1000000000.0)
    """
    size, time = (np.array(list(values), float) for values in (seconds, seconds.values()))
    # (alpha + n beta) / t = 1 for each n
    (latency, beta), *_ = np.linalg.lstsq(np.stack([1 / time, size / time], axis=1), np.ones(len(size)), rcond=None)
    return Link(round(max(latency, 0.0), 12), 1 / round(max(beta, 1e-15), 17))


def predicted_step(
    parameters: int, part: float, update: float, workers: int, links: dict[str, Link], fixed=0.0
) -> float:
    """Seconds of a step with ZeRO-1 and no overlap. part: of forward and backward; update: of a
    rank's share; links: of each collective; fixed: what a step takes beside all of these.
    """

    def seconds(name: str):
        return lambda size: links[name].seconds(1, size) if links else 0.0

    work = Work([parameters], [part / 3], [2 * part / 3], update * workers / parameters, fixed)
    return step_seconds(work, workers, Collectives(seconds("reduce_scatter"), seconds("all_gather")), Plan(1))


def figures_of_core(results: dict, sizes) -> dict:
    """What one core does here: operations a second in a step of the largest model, bytes a second in the update."""
    alone = [row for row in results["calibration"] if row["workers"] == 1]
    if not alone:
        return {}
    size = next(size for size in sizes if size.name == alone[-1]["size"])
    sections = sections_of(size.config, size.config.context_length)
    operations = size.batch_size * sum(section.operations for section in sections)
    return {
        "operations_per_second": operations / alone[-1]["step_seconds"],
        "bytes_per_second": TRAFFIC_OF_UPDATE * count_parameters(size.config) / alone[-1]["update_seconds"],
    }
