"""Images per second at which a whole training set is poisoned, for attacks that stamp it.

`python measurements/stamping_speed.py` prints one line for each attack: `attacks.base.poison` on
every image of a training set of CIFAR-10's size (random pixels; the arithmetic does not depend on
them), 8-bit conversion and relabelling included. LF adds a random pattern.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from attacks.badnets import BadNets
from attacks.base import Attack, Trigger, poison
from attacks.blended import Blended
from attacks.lf import LF
from attacks.sig import SIG
from benchmark.data import Images


def measure(attack: Attack, trigger: Trigger, data: Images, repeats: int) -> float:
    """Images per second, the median of the repeats."""
    rows = torch.arange(len(data))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        poison(data, rows, attack, trigger, num_classes=10)
        seconds.append(time.perf_counter() - start)
    # The first run pages memory in.
    return len(data) / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pixels = torch.randint(
        256, (arguments.images, 3, arguments.size, arguments.size), dtype=torch.uint8
    )
    data = Images(pixels, torch.randint(10, (arguments.images,)))
    pattern = {"pattern": 0.2 * torch.rand(1, 3, arguments.size, arguments.size)}
    attacks: list[tuple[Attack, Trigger]] = [(a, a.trigger) for a in (BadNets(), Blended(), SIG())]
    attacks.append((LF(), LF().trigger(pattern)))
    threads = torch.get_num_threads()
    print(f"{arguments.images} images, {arguments.size} pixels wide, {threads} threads")
    for attack, trigger in attacks:
        print(
            f"{attack.name:8} {measure(attack, trigger, data, arguments.repeats):10,.0f} images/s"
        )


if __name__ == "__main__":
    main()
