"""Images per second of a training step by precision, memory layout and compilation.

`python measurements/training_speed.py --model preact_resnet18:16` prints one line for each choice;
run it alone on the machine. Recipes and `benchmark.jobs.run_job` follow what it shows.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Literal, cast

import torch
from torch import nn

from benchmark.datasets.cifar10 import Cifar10
from benchmark.loading import build
from benchmark.train import Batch, Recipe, cross_entropy, precision
from models.classifier import Architecture


def measure(
    model: nn.Module, kind: Literal["fp32", "bf16"], layout: torch.memory_format, steps: int
) -> tuple[float, float]:
    """(images per second, seconds of the first step, which holds any compilation)."""
    device = next(model.parameters()).device
    x = torch.rand(128, 3, 32, 32, device=device).to(memory_format=layout)
    y = torch.randint(10, (128,), device=device)
    rows = torch.arange(128, device=device)
    optimizer = Recipe().make_optimizer(list(model.parameters()))

    def step() -> None:
        optimizer.zero_grad()
        with precision(kind, device):
            loss = cross_entropy(model, Batch(x, y, rows))
        loss.backward()
        optimizer.step()
        loss.item()

    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * len(x) / (time.perf_counter() - start), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="preact_resnet18:16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layouts = {"channels last": torch.channels_last, "default": torch.contiguous_format}
    for kind, layout, compiled in itertools.product(
        ("fp32", "bf16"), layouts, (False, True) if arguments.compile else (False,)
    ):
        torch.manual_seed(0)
        architecture = cast(Architecture, build("models", arguments.model))
        model: nn.Module = architecture(Cifar10()).to(device).to(memory_format=layouts[layout])
        if compiled:
            model = cast(nn.Module, torch.compile(model))
        choice = cast(Literal["fp32", "bf16"], kind)
        speed, first = measure(model, choice, layouts[layout], arguments.steps)
        print(
            f"{arguments.model} {kind} {layout}{' compiled' if compiled else ''}: "
            f"{speed:.0f} images/s, first step {first:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
