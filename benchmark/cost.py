"""What a job costs: wall time, peak memory, and on which hardware."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from sau_bench.benchmark.harness import harness
from sau_bench.benchmark.rows import Row

RESET_PEAK = Path("/proc/self/clear_refs")
"""Where Linux takes a 5 to start the peak of the resident size anew (proc(5))."""

T = TypeVar("T")


class Clock:
    """Wall time and peak memory of a method, without the scoring between the models it yields."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.started = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif RESET_PEAK.exists():
            # A worker runs many jobs: without this, each would report the largest before it.
            RESET_PEAK.write_text("5")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the time of the block."""
        self.started = time.perf_counter()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - self.started

    def timed(self, steps: Iterator[T]) -> Iterator[T]:
        """The same steps; adds the time that each takes, and none of the time between them."""
        while True:
            with self.running():
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step

    def state_dict(self) -> dict[str, float]:
        """Seconds so far, for a checkpoint that is saved while the clock runs."""
        return {"seconds": self.seconds + time.perf_counter() - self.started}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds, self.started = state["seconds"], time.perf_counter()

    def reading(self) -> Row:
        """Seconds so far and the peak, in MiB, of GPU memory or of the process."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            peak = _resident_peak()
        return {"seconds": round(self.seconds, 3), "peak_mib": round(peak, 1)}


def _resident_peak() -> float:
    """Largest resident size of this process, in MiB, since the peak was last reset (Linux)."""
    if RESET_PEAK.exists():
        status = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@lru_cache
def hardware(device: torch.device, threads: int | None = None) -> dict[str, str]:
    """The device by name and the versions of torch and of the harness, for a row.

    threads: of the process on a CPU; by default those that torch uses here.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{threads or torch.get_num_threads()}-thread {_processor()}"
    return {"device": name, "versions": f"torch {torch.__version__}, {harness()}"}


def arithmetic(fields: Mapping[str, Any], repeatable: bool) -> dict[str, str]:
    """How a method computes, for a row: every precision that its fields or its recipes declare.

    A method that declares none computes in fp32. fields: nested, as of `dataclasses.asdict`.
    repeatable: whether its kernels give the same bits each time.
    """
    words = sorted(set(_precisions(fields))) or ["fp32"]
    return {"arithmetic": ", ".join(words + ["not repeatable"] * (not repeatable))}


def _precisions(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _precisions(value)
        elif name == "precision":
            yield str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
