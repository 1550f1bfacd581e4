"""Where poisoned, shared and other adversarial images lie among a victim's features (figure 4 of
the SAU paper: mean distances to the poisoned image of 38.75 and 80.55, BadNets on CIFAR-10).

`python measurements/latent_features.py CONFIG --only attack=badnets,defense=SAU --out FOLDER` reads
the victim f0 of a finished cell, and its defended model f, which the config keeps with
`keep: [defended]`. From each of the first test images whose trigger works on f0 it searches two
adversarial examples by the paper's ball and steps (`benchmark.risk`): a shared one, on which f and
f0 agree on a wrong class, and another one, on which f is wrong and f0 says something else. Images
with both count. It prints the mean L2 distances of their features to that of the poisoned image,
and writes `latent_features.csv`, all features on two principal components, and a picture of it.

The paper does not say which layer and which projection it shows: here they are the inputs of the
head of f0 and a PCA of all points.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import Tensor

from sau_bench.benchmark import risk
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.cells import load_model
from sau_bench.benchmark.cli.find import find_cell
from sau_bench.benchmark.jobs.job import DefenseJob
from sau_bench.benchmark.jobs.networks import load_victim
from sau_bench.benchmark.report.canvas import (
    COLUMN,
    beside,
    canvas,
    mark_of,
    sample,
    save,
    styled,
    under,
)
from sau_bench.benchmark.report.style import INDIGO, OLIVE, SKY, WINE, Look
from sau_bench.models.classifier import Classifier

GROUPS = ("clean", "poisoned", "shared", "other")
LOOKS = {
    "clean": Look(SKY, "o"),
    "poisoned": Look(WINE, "*"),
    "shared": Look(OLIVE, "^"),
    "other": Look(INDIGO, "s"),
}


def climb(
    f: Classifier, f0: Classifier, x: Tensor, y: Tensor, objective: risk.Objective, wanted: Callable
) -> tuple[Tensor, Tensor]:
    """The first visited point of each image that is wanted, and which images have one.

    x: float (B, C, H, W). y: int64 (B,). wanted: (classes of f, classes of f0, y) -> bool (B,).
    """
    e, found = torch.full_like(x, risk.EPS), torch.zeros_like(y, dtype=torch.bool)
    points = x.clone()
    for _ in range(risk.STEPS + 1):
        z = (x + e).requires_grad_()
        logits, logits0 = f(z), f0(z)
        new = wanted(logits.argmax(1), logits0.argmax(1), y) & ~found
        points[new], found = z.detach()[new], found | new
        (gradient,) = torch.autograd.grad(objective(logits, logits0, y).sum(), z)
        e = (e + risk.STEP * gradient.sign()).clamp(-risk.EPS, risk.EPS)
    return points, found


def apart(logits: Tensor, logits0: Tensor, y: Tensor) -> Tensor:
    """What a search for an example of f alone climbs: f wrong, f0 right."""
    return risk.alone(logits, logits0, y) - risk.alone(logits0, logits, y)


def points_of(f: Classifier, f0: Classifier, x: Tensor, poisoned: Tensor, y: Tensor) -> Tensor:
    """The images of each group that have both examples, (4, N, C, H, W)."""
    shared, first = climb(f, f0, x, y, risk.together, lambda a, b, y: (a != y) & (a == b))
    other, second = climb(f, f0, x, y, apart, lambda a, b, y: (a != y) & (a != b))
    both = first & second
    return torch.stack([group[both] for group in (x, poisoned, shared, other)])


@torch.no_grad()
def features_of(f0: Classifier, groups: Tensor) -> Tensor:
    """Inputs of the head, (4, N, D)."""
    flat = [f0.features(group, "penultimate")["penultimate"] for group in groups]
    return torch.stack(flat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--only", action="append", required=True, metavar="AXIS=NAME,...")
    parser.add_argument("--step", type=int, help="round or candidate, where several are kept")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--cache", type=Path, default=Path("results/cache"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SAU_BENCH_DATA", "data")))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    job = find_cell(arguments.config, arguments.only)
    if not isinstance(job, DefenseJob):
        parser.error("name a defense")
    f = load_model(arguments.config, arguments.only, arguments.cache, step=arguments.step)
    f0, tensors = load_victim(job.victim, Store(arguments.cache), torch.device("cpu"))
    f0.eval()
    test = job.victim.dataset(arguments.data).test
    first = tensors["test.part"] == 0
    wanted = job.victim.attack.parts[0].relabel(test.y, f0.num_classes)
    rows = (wanted != test.y).nonzero()[: arguments.images, 0]
    poisoned = tensors["test.x"][first][: len(rows)].float() / 255
    with torch.no_grad():
        works = f0(poisoned).argmax(1) == wanted[rows]
    rows, poisoned = rows[works], poisoned[works]
    groups = features_of(f0, points_of(f, f0, test.floats(rows), poisoned, test.y[rows]))
    count = groups.shape[1]
    print(f"{job}: {count} of {len(rows)} images have a shared and another adversarial example")
    if count < 2:
        parser.error("too few images have both; name another cell, or more --images")
    for name, group in zip(GROUPS, groups, strict=True):
        if name != "poisoned":
            print(f"{name:9} {(group - groups[1]).norm(dim=1).mean():8.2f} from the poisoned image")
    places = PCA(2, svd_solver="full").fit_transform(groups.flatten(0, 1).numpy())
    names = [name for name in GROUPS for _ in range(count)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"group": names, "pc1": places[:, 0], "pc2": places[:, 1]})
    table.to_csv(arguments.out / "latent_features.csv", index=False, float_format="%.4f")
    save(scatter(table), arguments.out / "latent_features")


@styled
def scatter(table: pd.DataFrame) -> Figure:
    """The points of each group, a column wide."""
    handles = [sample(name, look, ls="") for name, look in LOOKS.items()]
    figure, ((axis,),) = canvas(
        [1], 2.4, width=COLUMN, left=0.5, above=[0.06], below=[0.32], handles=handles
    )
    for name, part in table.groupby("group", sort=False):
        look = LOOKS[str(name)]
        style = mark_of(look, 3.0) | {"mew": 0.2}
        axis.plot(part["pc1"], part["pc2"], color=look.colour, ls="", alpha=0.7, **style)
    under(figure, [axis], "first principal component")
    beside(figure, [axis], "second principal component")
    return figure


if __name__ == "__main__":
    main()
