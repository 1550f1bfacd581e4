"""Where the jobs of a run may run: slots of this machine or of a cluster; and for how long."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from sau_bench.benchmark.errors import InputError

if TYPE_CHECKING:
    from sau_bench.benchmark.cache.step import Plan
    from sau_bench.benchmark.run.durations import Durations
    from sau_bench.benchmark.run.pool import Pool

IMPORTS = ("sau_bench.benchmark.jobs.run_job",)
"""What a worker loads before its first job."""


def local_pool(
    device: str, per_device: int, limit: float | None, *, small: bool = False
) -> tuple[Pool, str]:
    """One slot, or several, on each chosen device of this machine; and the device's name in rows.

    small: jobs too small for several threads: on a CPU each core is a slot.

    Raises:
        InputError: a device that is not there.
    """
    import torch
    from joblib import cpu_count

    from sau_bench.benchmark.cost import hardware
    from sau_bench.benchmark.run.local import LocalPool

    devices = devices_of(device, per_device, torch.cuda.device_count())
    if small and not devices[0]:
        devices = [""] * max(len(devices), cpu_count())
    kind = torch.device("cuda" if devices[0] else "cpu")
    threads = max(1, cpu_count() // len(devices))
    return LocalPool(devices, limit=limit, imports=IMPORTS), hardware(kind, threads)["device"]


def cluster_pool(scheduler: str | None, resource: str, limit: float | None) -> Pool:
    """The slots that a Dask cluster offers.

    Raises:
        InputError: distributed is not installed, or no such cluster answers.
    """
    if scheduler is None:
        raise InputError("--engine dask needs --scheduler ADDRESS or --scheduler FILE")
    from sau_bench.benchmark.run.dask import DaskPool

    return DaskPool(scheduler, resource, limit=limit, imports=IMPORTS)


def preview(
    plan: Plan,
    done: Collection[str],
    durations: Durations,
    slots: int,
    per_device: int = 1,
    device: str = "",
) -> str:
    """What a run would do, and about how long that takes on the device."""
    from sau_bench.benchmark.cli.progress import duration
    from sau_bench.benchmark.run.durations import wall_time

    missing = [key for key in plan if key not in done]
    text = f"{len(plan)} jobs: {len(missing)} to run, {len(plan) - len(missing)} cached"
    if not missing:
        return text
    steps = [plan[key] for key in missing]
    least, most = (hours / 3600 / per_device for hours in durations.range(steps))
    work = sum(map(durations.seconds, steps)) / 3600 / per_device
    wall = wall_time(plan, {}, missing, slots, durations)
    where = f"{_count(slots, 'slot')}" + (f" of {device}" if device else "")
    text += f"\nabout {work:.2f} device hours, {duration(wall)} on {where}"
    if guesses := sum(not durations.is_measured(step) for step in steps):
        text += (
            f"; a guess for {guesses} of them, nothing like these was measured on this device: "
            f"{least:.2f} to {most:.2f} device hours"
        )
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def devices_of(device: str, per_device: int, count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES says in each slot, "" for the CPU."""
    if per_device < 1:
        raise InputError(f"--per-device is {per_device}, accepted: at least 1")
    if device == "auto":
        device = "cuda" if count else "cpu"
    if device == "cpu":
        return [""] * per_device
    indices = [str(i) for i in range(count)] if device == "cuda" else device.split(",")
    if not indices or not all(i.isdecimal() and int(i) < count for i in indices):
        raise InputError(
            f"--device {device!r}: this machine has {count} CUDA devices; accepted: auto, cpu, "
            "cuda, or indices such as 0,1"
        )
    # Indices count what this process may see: a batch system lends some devices, by their names.
    lent = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = lent.split(",") if lent else [str(i) for i in range(count)]
    return [names[int(i)].strip() for i in indices] * per_device
