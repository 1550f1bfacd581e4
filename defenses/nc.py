"""NC: Neural Cleanse (Wang et al., IEEE S&P 2019, Neural Cleanse: Identifying and Mitigating
Backdoor Attacks in Neural Networks; not on arXiv)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sau_bench.benchmark.data import Images, to_uint8
from sau_bench.benchmark.errors import EPOCHS, IMAGES, check_range
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.train import Recipe, batch, fit, precision, shuffled
from sau_bench.defenses.base import Defense
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)

CHUNK = {"cpu": 2**18, "cuda": 2**20}
"""Pixels of stamped images in one pass, 2^18 are 256 images of CIFAR-10. A CPU is as fast with as
many, and its memory holds several jobs."""


@dataclass(frozen=True, kw_only=True)
class NC(Defense):
    """Reverse-engineer a trigger for each class; unlearn those whose mask is an outlier in size.

    For class t: min over mask m and pattern p of CE(f((1 - m) x + m p), t) + cost ||m||_1, by Adam.
    A class is flagged when its norm is more than `anomaly` deviations (1.4826 MAD) below the
    median. Fine-tuning then sees a share of the images stamped, with their true labels.

    success: share of images that must be predicted t, in (0, 1]. epochs: passes over the data, at
    most. lr: of Adam, above 0 and at most 1,000. betas: of Adam, in [0, 1). batch_size: images in a
    step. cost: of the mask's norm at first. patience: epochs of success that double the cost, and
    epochs without that divide it by 2^1.5. stale: epochs without a gain of 1 % in the norm that end
    a class's search. anomaly: index beyond which a class is flagged, above 0. stamped: share of the
    data that is stamped, in (0, 1). recipe: of the fine-tuning, as FT; its `augment` and
    `precision` hold for the search too. as_published: normalise the pattern as the code behind the
    published cells does, which applies the constants of the channels to the first rows of the
    pattern; if false, images and patterns are blended as pixels.

    Note: all classes are searched at once on the same batches. The subset is the common one for
    search and unlearning, and stamped images are cut off at [0, 1], not wrapped around.
    """

    name: ClassVar[str] = "NC"
    smoke: ClassVar[dict[str, Any]] = {"epochs": 3, "anomaly": 0.1, "recipe": {"epochs": 2}}

    success: float = 0.98
    epochs: int = 80
    lr: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    batch_size: int = 256
    cost: float = 1e-3
    patience: int = 5
    stale: int = 25
    anomaly: float = 2.0
    stamped: float = 0.2
    recipe: Recipe = Recipe(batch_size=256)
    as_published: bool = True

    def __post_init__(self) -> None:
        check_range(self, "epochs", "patience", "stale", least=1, most=EPOCHS)
        check_range(self, "batch_size", least=1, most=IMAGES)
        check_range(self, "lr", above=0, most=1000)
        check_range(self, "betas", least=0, below=1)
        check_range(self, "cost", "anomaly", above=0)
        check_range(self, "success", above=0, most=1)
        check_range(self, "stamped", above=0, below=1)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        masks, patterns = self.triggers(model, data)
        norms = masks.flatten(1).sum(1)
        listed = [f"{t} ({norm:.1f})" for t, norm in enumerate(norms.tolist())]
        log.info("norm of each class's mask: %s", ", ".join(listed))
        flagged = outliers(norms, self.anomaly)
        if not flagged:
            note("no class flagged, model returned unchanged")
            yield model
            return
        names = ", ".join(listed[t] for t in flagged)
        note("flagged classes (norm): %s; median norm %.1f", names, float(norms.median()))
        rows = torch.arange(len(data), device=data.y.device)
        clean, rest = rows.tensor_split([int((1 - self.stamped) * len(data))])
        x, m, p = data.floats(rest), masks[flagged], patterns[flagged]
        painted = ((1 - m)[:, None] * x + (m * p)[:, None]).flatten(0, 1)
        mixed = torch.cat((data.x[clean], to_uint8(painted)))
        labels = torch.cat((data.y[clean], data.y[rest].repeat(len(flagged))))
        yield from fit(model, replace(data, x=mixed, y=labels), self.recipe)

    def triggers(self, model: Classifier, data: Images) -> tuple[Tensor, Tensor]:
        """Masks (K, 1, H, W) and patterns (K, C, H, W) of all classes, in [0, 1].

        Of each class the smallest mask that succeeded, else the one after the first epoch.
        """
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
        classes, shape, device = model.num_classes, data.x.shape[1:], data.y.device
        triggers = Triggers(classes, shape, model.mean, model.std, rows=self.as_published)
        optimizer = torch.optim.Adam([triggers.raw_m, triggers.raw_p], self.lr, betas=self.betas)
        cost = torch.full((classes,), self.cost, device=device)
        schedule = CostSchedule(
            cost, success=self.success, patience=self.patience, stale=self.stale
        )
        masks, patterns = (value.detach() for value in triggers.values())
        together = max(1, CHUNK[device.type] // (self.batch_size * shape[1] * shape[2]))
        for epoch in range(1, self.epochs + 1):
            active = schedule.active.nonzero()[:, 0]
            if not len(active):
                break
            batches = shuffled(len(data), self.batch_size, device)
            share, size = torch.zeros_like(cost), torch.zeros_like(cost)
            for rows in batches:
                x = batch(data, rows, self.recipe.augment).x
                optimizer.zero_grad()
                for t in active.split(together):
                    stamped, norm = triggers.stamp(x, t)
                    wanted = t.repeat_interleave(len(x), output_size=len(t) * len(x))
                    with precision(self.recipe.precision, device):
                        logits = frozen(stamped)
                    risk = F.cross_entropy(logits, wanted, reduction="sum") / len(x)
                    (risk + (schedule.cost[t] * norm).sum()).backward()
                    hits = (logits.argmax(1) == wanted).view(len(t), -1).float().mean(1)
                    share[t] += hits / len(batches)
                    size[t] += norm.detach() / len(batches)
                optimizer.step()
            with torch.no_grad():
                m, p = triggers.values()
            better = (schedule.update(share, size) | (epoch == 1)).view(-1, 1, 1, 1)
            masks, patterns = torch.where(better, m, masks), torch.where(better, p, patterns)
            log.info("inversion", extra={"epoch": epoch, "epochs": self.epochs})
        return masks, patterns


def outliers(norms: Tensor, anomaly: float) -> list[int]:
    """Classes whose norm lies more than `anomaly` deviations below the median, smallest first.

    norms: (K,). The median of an even number is the lower middle one (torch), as in the code
    behind the published cells.
    """
    distance = (norms - norms.median()).abs()
    deviation = (1.4826 * distance.median()).clamp_min(1e-12)
    low = (norms <= norms.median()) & (distance / deviation > anomaly)
    return [t for t in norms.argsort().tolist() if low[t]]


class Triggers:
    """Masks m (K, 1, H, W) and patterns p (K, C, H, W), both tanh / 2 + 1 / 2 of free variables.

    Args:
        classes: K.
        shape: (C, H, W) of an image.
        mean, std: the model's normalisation, (1, C, 1, 1).
        rows: put p through the normalisation as the code behind the published cells does: its C
            constants meet the first C rows, in place of the channels, and other rows enter as if
            they were normalised already. Otherwise p is in pixels.
    """

    def __init__(
        self, classes: int, shape: torch.Size, mean: Tensor, std: Tensor, *, rows: bool
    ) -> None:
        channels, height, width = shape
        self.raw_m = torch.ones(classes, 1, height, width, device=mean.device, requires_grad=True)
        self.raw_p = self.raw_m.detach().repeat(1, channels, 1, 1).requires_grad_()
        self.scale, self.shift = torch.ones_like(std), torch.zeros_like(mean)
        if rows:
            rest = height - channels
            row_mean = F.pad(mean.flatten(), (0, rest))[:, None]
            row_std = F.pad(std.flatten(), (0, rest), value=1.0)[:, None]
            self.scale, self.shift = std / row_std, mean - std * row_mean / row_std

    def values(self, t: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """m and p of some classes, in [0, 1]."""
        return _squash(self.raw_m[t]), _squash(self.raw_p[t])

    def stamp(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The images as the network sees them under each trigger, and the masks' L1 norms.

        x: (B, C, H, W) in [0, 1]. t: classes, (k,). Returns (k * B, C, H, W) and (k,).
        """
        m, p = self.values(t)
        shown = self.scale * p + self.shift
        return ((1 - m)[:, None] * x + (m * shown)[:, None]).flatten(0, 1), m.flatten(1).sum(1)


class CostSchedule:
    """Raises the price after epochs of success, lowers it after epochs of failure.

    All attributes are tensors over classes, (K,); no update reads one back to the host.

    Args:
        cost: the price at first, (K,), above 0.
        success: share of images predicted as the class that counts as success.
        patience: epochs of one kind in a row that change the price: times 2, or over 2^1.5.
        stale: epochs without a gain of 1 % in size that end a class's search, once its price has
            been both raised and lowered.
    """

    def __init__(self, cost: Tensor, *, success: float, patience: int, stale: int) -> None:
        self.success, self.patience, self.stale = success, patience, stale
        self.cost = cost
        self.best = torch.full_like(cost, torch.inf)
        self.active = torch.ones_like(cost, dtype=torch.bool)
        self.raised = torch.zeros_like(self.active)
        self.lowered = torch.zeros_like(self.active)
        self.streak = torch.zeros_like(cost, dtype=torch.int64)
        self.waited = torch.zeros_like(self.streak)

    def update(self, share: Tensor, size: Tensor) -> Tensor:
        """Close an epoch.

        Args:
            share: of images predicted as the class, (K,).
            size: L1 norm of the mask, (K,).

        Returns:
            The classes whose mask is the smallest successful one so far, bool (K,).
        """
        good = share >= self.success
        improved = self.active & good & (size < self.best)
        before, self.best = self.best, torch.where(improved, size, self.best)
        idle = self.best.isfinite() & (self.best >= 0.99 * before)
        self.waited = torch.where(idle, self.waited + 1, 0)
        self.active = self.active & ~(self.raised & self.lowered & (self.waited >= self.stale))
        # Counts up through successes and down through failures.
        self.streak = torch.where(good, self.streak.clamp_min(0) + 1, self.streak.clamp_max(0) - 1)
        up, down = self.streak >= self.patience, self.streak <= -self.patience
        self.raised, self.lowered = self.raised | up, self.lowered | down
        self.cost = torch.where(up, self.cost * 2, torch.where(down, self.cost / 2**1.5, self.cost))
        self.streak = torch.where(up | down, 0, self.streak)
        return improved


def _squash(raw: Tensor) -> Tensor:
    return raw.tanh() / (2 + 1e-7) + 0.5
