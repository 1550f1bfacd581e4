"""ACC, ASR and R-ACC with their counts: the one place that scores a model (protocol.md, section 7).

DER compares two rows and belongs to `benchmark.report.tables`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks.base import Attack, Trigger, each_trigger
from benchmark.data import Images, to_uint8

BATCH = 500


@dataclass(frozen=True)
class Poisoned:
    """Triggered test images, stored as 8 bits; images that the attacker need not change are out.

    images: x uint8 (M, C, H, W), y their true classes. wanted: the attacker's classes, int64 (M,).
    part: which of the attack's parts triggered each image, int64 (M,).
    """

    images: Images
    wanted: Tensor
    part: Tensor

    def to(self, device: torch.device | str) -> Poisoned:
        return Poisoned(self.images.to(device), self.wanted.to(device), self.part.to(device))


def poison_test(test: Images, attack: Attack, trigger: Trigger, num_classes: int) -> Poisoned:
    """The test images i with eta(y_i) != y_i, triggered; those of each part after the other."""
    x, y, goals, parts = [], [], [], []
    for number, (part, stamp) in enumerate(zip(attack.parts, each_trigger(trigger), strict=True)):
        wanted = part.relabel(test.y, num_classes)
        rows = (wanted != test.y).nonzero()[:, 0]
        with torch.no_grad():
            x += [to_uint8(stamp(test.floats(batch))) for batch in rows.split(BATCH)]
        y.append(test.y[rows])
        goals.append(wanted[rows])
        parts.append(torch.full_like(rows, number))
    images = replace(test, x=torch.cat(x), y=torch.cat(y))
    return Poisoned(images, torch.cat(goals), torch.cat(parts))


def score(
    model: nn.Module, clean: Images, poisoned: Poisoned | None = None
) -> dict[str, float | int | str]:
    """Shares in [0, 1] and the counts behind them.

    acc: of clean images predicted as their class. asr, racc: of poisoned images predicted as the
    attacker's class, and as their own; means over the parts of an attack that has several, which
    are asr_1, racc_1 and so on. A prediction that is not finite counts as wrong; one that
    is not finite, or the same for all clean images, gives the status "diverged". Without poisoned
    images, acc and its count alone.
    """
    found = predict(model, clean)
    broken = bool((found < 0).any() or (found == found[0]).all())
    scores: dict[str, float | int | str] = {"acc": share(found == clean.y), "n_clean": len(clean)}
    if poisoned is not None:
        triggered = predict(model, poisoned.images)
        broken |= bool((triggered < 0).any())
        of_part = [poisoned.part == number for number in range(int(poisoned.part.max()) + 1)]
        for name, goal in (("asr", poisoned.wanted), ("racc", poisoned.images.y)):
            each = [share((triggered == goal)[part]) for part in of_part]
            scores[name] = sum(each) / len(each)
            if len(each) > 1:
                scores |= {f"{name}_{number}": value for number, value in enumerate(each, 1)}
        scores["n_poisoned"] = len(poisoned.images)
    return scores | {"status": "diverged" if broken else "ok"}


@torch.no_grad()
def predict(model: nn.Module, data: Images) -> Tensor:
    """Predicted classes, int64 (N,), -1 where a logit is not finite; in fp32, evaluation mode."""
    model.eval()
    rows = torch.arange(len(data), device=data.y.device).split(BATCH)
    logits = torch.cat([model(data.floats(part)) for part in rows])
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def share(hits: Tensor) -> float:
    """The share of true entries as an exact quotient of counts."""
    return int(hits.sum()) / len(hits)
