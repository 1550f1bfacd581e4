"""How far triggers move test images, and how many of SSBA's bits can be read back from them.

Also the cross accuracy that WaNet and Input-Aware have logged.

`python measurements/trigger_norms.py configs/cifar10_cpu.yaml` prints, for each finished
victim of a grid, the mean over triggered test images of the norms of the difference, with pixels
in [0, 1]: the paper's table 11 gives those of SSBA. Nothing was trained on these images. `--write
results/cifar10_cpu` writes the norms into that folder, whose report then has a table of them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pandas as pd
import torch

from sau_bench.attacks.ssba import SSBA, Decoder, bits_read
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.job import AttackJob


def norms(job: AttackJob, store: Store, data: Path) -> list[float]:
    """Mean L1, L2 and L-infinity norm of an image's change, and its mean squared error."""
    test = job.dataset(data).test
    wanted = job.attack.relabel(test.y, job.dataset.num_classes)
    rows = (wanted != test.y).nonzero()[:, 0]
    triggered = store.tensors(job.key)["test.x"]
    change = (triggered.float() - test.x[rows].float()).flatten(1) / 255
    means = [change.norm(p=order, dim=1).mean().item() for order in (1, 2, torch.inf)]
    return [*means, change.square().mean().item()]


@torch.no_grad()
def bits(job: AttackJob, store: Store) -> float:
    """The share of the secret's bits that SSBA's decoder reads from triggered test images."""
    assert job.asset is not None
    asset = store.tensors(job.asset.key)
    triggered = store.tensors(job.key)["test.x"]
    decoder = Decoder(triggered.shape[-1])
    weights = {name: asset[f"decoder.{name}"] for name in decoder.state_dict()}
    decoder.load_state_dict(weights)
    logits = torch.cat([decoder(part.float() / 255) for part in triggered.split(500)])
    return bits_read(logits, asset["secret"].expand(len(triggered), -1)).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("results/cache"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SAU_BENCH_DATA", "data")))
    parser.add_argument("--write", type=Path, help="folder for trigger_norms.csv")
    arguments = parser.parse_args()
    lines = []
    grid, store = make_grid(read(arguments.config)), Store(arguments.cache)
    print(f"{'attack':16} {'L1':>8} {'L2':>7} {'L-inf':>7} {'MSE':>8}")
    for job in grid.victims:
        if job.key in store:
            one, two, most, mse = norms(job, store, arguments.data)
            lines.append((job.key, one, two, most, mse))
            attack = grid.place(job, None)["attack"]
            print(f"{attack:16} {one:8.1f} {two:7.2f} {most:7.3f} {mse:8.4f}")
            if isinstance(job.attack, SSBA):
                print(f"{'':16} bits read {bits(job, store):.4f}")
            for line in (store.root / job.key / "log.jsonl").read_text().splitlines():
                if "cross accuracy" in (message := json.loads(line)["message"]):
                    print(f"{'':16} {message}")
    if arguments.write:
        file = arguments.write / "trigger_norms.csv"
        table = pd.DataFrame(lines, columns=["key", "l1", "l2", "linf", "mse"])
        table.to_csv(file, index=False, float_format="%.5g")
        print(f"{file}: {len(lines)} victims")


if __name__ == "__main__":
    main()
