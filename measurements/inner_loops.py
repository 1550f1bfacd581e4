"""What single changes to inner loops gain on a CPU: with and without each, in turn.

`python -m measurements.inner_loops --width 64 --images 64` prints milliseconds of processor time an
image, of one thread in bf16, the least of the repeats: an epoch of training and one of SAU with and
without small maps as products (`benchmark.convolution`), which only CPUs with AMX use; an ascent
and a step of i-BAU along the hypergradient with torch's own second derivatives and with those of
`defenses.second_order`; and NC's search over all classes with 2^20 and with 2^18 pixels in one
pass, which is to save memory. Network and images are random; the time does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

import sau_bench.benchmark.convolution as convolution
import sau_bench.defenses.i_bau as i_bau
import sau_bench.defenses.nc as nc
import sau_bench.defenses.sau as sau
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.cifar10 import Cifar10
from sau_bench.benchmark.process import keep_freed_memory
from sau_bench.benchmark.train import Recipe, train_model
from sau_bench.models.preact_resnet18 import PreActResNet18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=256, help="in a batch; default: 256")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, dataset = arguments.images, Cifar10()
    x = torch.randint(256, (size, *dataset.shape), dtype=torch.uint8)
    data = Images(x, torch.randint(dataset.num_classes, (size,)), flips=True)
    model = PreActResNet18(width=arguments.width)(dataset).to(memory_format=torch.channels_last)

    def train() -> None:
        train_model(model, data, Recipe(epochs=1, batch_size=size, precision="bf16"))

    def share() -> None:
        recipe = replace(sau.UNLEARNING, epochs=1, batch_size=size, precision="bf16")
        list(sau.SAU(recipe=recipe)(model, data))

    def unlearn() -> None:
        method = i_bau.IBAU(
            rounds=1, batch_size=size, portion=max(0.01, 1 / size), precision="bf16"
        )
        list(method(model, data))

    def search() -> None:
        nc.NC(epochs=1, batch_size=size, recipe=Recipe(precision="bf16")).triggers(model, data)

    large_only = patch.object(convolution, "has_amx", lambda: False)
    variants: tuple[tuple[str, Callable[[], None], Any], ...] = (
        ("training", train, large_only),
        ("SAU", share, large_only),
        ("i-BAU", unlearn, patch.object(i_bau, "SecondOrder", nullcontext)),
        ("NC", search, patch.dict(nc.CHUNK, cpu=2**20)),
    )
    print(f"PreAct-ResNet18 of width {arguments.width}, batches of {size}")
    for name, work, without in variants:
        least = {"without": float("inf"), "with": float("inf")}
        for _ in range(arguments.repeats):
            for which, context in (("without", without), ("with", nullcontext())):
                with context:
                    start = time.process_time()
                    work()
                    least[which] = min(least[which], time.process_time() - start)
        before, after = (1000 * seconds / size for seconds in least.values())
        print(f"{name}: {before:.1f} ms, now {after:.1f} ms, {before / after:.2f} times as fast")


if __name__ == "__main__":
    main()
