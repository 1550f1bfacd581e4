"""Timing in turn: product, plain, product, plain, within the seconds that are given."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch.utils.flop_counter import FlopCounterMode

from sau_bench.benchmark.cost import Clock
from sau_bench.benchmark.jobs.surroundings import set_arithmetic
from sau_bench.benchmark.process import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

MOST = 9
"""Rounds of each side."""


@dataclass
class Side:
    """Rounds of one side: their seconds in order, and the peak memory in MiB."""

    seconds: list[float] = field(default_factory=list)
    peak_mib: float | None = None

    @property
    def median(self) -> float:
        """Of all rounds but the first, which may be slow, if two others remain."""
        return statistics.median(self.kept)

    @property
    def kept(self) -> list[float]:
        return self.seconds[1:] if len(self.seconds) > 2 else self.seconds


@dataclass
class Turns:
    """What `take_turns` found. flops: of one round of the product as it was executed, or 0."""

    product: Side
    plain: Side | None
    flops: float


def take_turns(
    product: Iterator[object],
    plain: Iterator[object] | None,
    seconds: float,
    device: torch.device,
    deterministic: bool = True,
) -> Turns:
    """Time rounds of both sides in turn; one of each at least.

    The product has a round before that, which holds set-up. The arithmetic of its first timed round
    is counted, which costs a little time; that round is left out if there are two others. product,
    plain: endless; a round ends with each item.
    """
    end = time.perf_counter() + seconds
    turns = Turns(Side(), Side() if plain else None, 0.0)
    clock = Clock(device)
    as_in_a_job(deterministic)
    _seconds(product, device)
    turns.product.peak_mib = clock.reading()["peak_mib"]
    while True:
        as_in_a_job(deterministic)
        counter = None if turns.product.seconds else FlopCounterMode(display=False)
        with counter or nullcontext():
            turns.product.seconds.append(_seconds(product, device))
        if counter:
            turns.flops = float(counter.get_total_flops())
        next_pair = turns.product.seconds[-1]
        if plain and turns.plain:
            as_installed()
            clock = Clock(device)
            turns.plain.seconds.append(_seconds(plain, device))
            turns.plain.peak_mib = turns.plain.peak_mib or clock.reading()["peak_mib"]
            next_pair += turns.plain.seconds[-1]
        if len(turns.product.seconds) >= MOST or time.perf_counter() + next_pair > end:
            return turns


def repeated(function: Callable[[], object], seconds: float, device: torch.device) -> list[float]:
    """Seconds of each call, the first one left out; within the seconds given, once at least."""
    end = time.perf_counter() + seconds
    taken: list[float] = []
    function()
    while not taken or (len(taken) < 200 and time.perf_counter() + taken[-1] < end):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return taken


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(rounds: Iterator[object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    next(rounds)
    synchronize(device)
    return time.perf_counter() - start


def as_in_a_job(deterministic: bool) -> None:
    """Arithmetic and memory as a worker sets them before a job."""
    set_arithmetic(deterministic)
    keep_freed_memory()


def as_installed() -> None:
    """torch and glibc without settings: float32, on GPUs with TF32 in convolutions."""
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "gnu_get_libc_version"):
        # Where glibc's thresholds end up by themselves once large tensors have been freed.
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(M_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)
