"""ACC, ASR and R-ACC with their counts: the one place that scores a model (docs/protocol.md,
"metrics").

DER compares two rows and belongs to `benchmark.report.tables`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sau_bench.benchmark.data import Images

ON_GPU, PER_THREAD, LEAST = 500, 16, 32
"""Images in one forward pass of a score: so many on a GPU, and on a CPU for each thread, but at
least so many. On a CPU passes of 32 images take a fraction of the memory of those of 500 and are at
least as fast: twice where the C library gives large blocks back to the system after each layer. The
logits are the same to the bit."""


@dataclass(frozen=True)
class Poisoned:
    """Triggered test images, stored as 8 bits, without those that are of the wanted class already.

    data: x uint8 (M, C, H, W), y the true classes. wanted: the attacker's classes, int64 (M,).
    part: which of the attack's parts triggered an image, int64 (M,).
    """

    data: Images
    wanted: Tensor
    part: Tensor

    def to(self, device: torch.device | str) -> Poisoned:
        return Poisoned(self.data.to(device), self.wanted.to(device), self.part.to(device))


def score(
    model: nn.Module, clean: Images, poisoned: Poisoned | None = None, rejection: int | None = None
) -> dict[str, float | int | str]:
    """Shares in [0, 1] and the counts behind them.

    acc: of clean images predicted as their class. asr, racc: of poisoned images predicted as the
    attacker's class, and as their true class; of an attack with several parts the means over them,
    and asr_1, racc_1 and so on for the parts. A prediction that is not finite counts as wrong; one
    that is not finite, or the same for all clean images, gives the status "diverged". Without
    poisoned images, acc and its count alone.

    rejection: the class that stands for a rejected image, of a model that may reject. It is no
    image's label and no attacker's goal, so that a rejected image is wrong and no success; the
    shares rejected and rejected_poisoned say how many were.
    """
    predicted = predict(model, clean)
    broken = bool((predicted < 0).any() or (predicted == predicted[0]).all())
    scores: dict[str, float | int | str] = {
        "acc": share(predicted == clean.y),
        "n_clean": len(clean),
    }
    if poisoned is not None:
        triggered = predict(model, poisoned.data)
        broken |= bool((triggered < 0).any())
        parts = [poisoned.part == number for number in range(int(poisoned.part.max()) + 1)]
        for name, goal in (("asr", poisoned.wanted), ("racc", poisoned.data.y)):
            shares = [share((triggered == goal)[part]) for part in parts]
            scores[name] = sum(shares) / len(shares)
            if len(shares) > 1:
                scores |= {f"{name}_{number}": value for number, value in enumerate(shares, 1)}
        scores["n_poisoned"] = len(poisoned.data)
        if rejection is not None:
            scores["rejected_poisoned"] = share(triggered == rejection)
    if rejection is not None:
        scores["rejected"] = share(predicted == rejection)
    return scores | {"status": "diverged" if broken else "ok"}


@torch.no_grad()
def predict(model: nn.Module, data: Images) -> Tensor:
    """Predicted classes, int64 (N,), -1 where a logit is not finite; in fp32, evaluation mode."""
    model.eval()
    device = data.y.device
    size = ON_GPU if device.type != "cpu" else max(LEAST, PER_THREAD * torch.get_num_threads())
    rows = torch.arange(len(data), device=device).split(size)
    logits = torch.cat([model(data.floats(part)) for part in rows])
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def share(hits: Tensor) -> float:
    """The share of true entries as an exact quotient of counts."""
    return int(hits.sum()) / len(hits)
