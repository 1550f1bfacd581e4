"""EP: entropy-based pruning (Zheng, Tang, Li & Liu, NeurIPS 2022, Pre-activation Distributions
Expose Backdoor Neurons; not on arXiv)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import IMAGES, check_range
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.train import batch
from sau_bench.defenses.base import Defense
from sau_bench.defenses.batch_norm import batch_norms, prune
from sau_bench.models.classifier import Classifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EP(Defense):
    """Prune batch-norm channels whose inputs, over poisoned training images, have low entropy.

    A channel that the trigger drives has a bimodal distribution, which standardising squeezes into
    few bins of a histogram. Per layer, channel c goes when H_c < mean(H) - u std(H).

    u: standard deviations, 0 to 1,000 (Tiny ImageNet: 4). h: width of a bin, in standard deviations
    of a channel, 0.001 to 1,000. samples: images of the poisoned training set, one batch, at least
    2. augment: crop and, where
    allowed, flip. as_published: set the biases of pruned channels to zero as well, as in the code
    behind the published cells; if false, only their weights (authors' code).

    Note: unlike the other defenses it sees poisoned images, so its threat model is another one.
    Defaults are those of the published cells; the authors' are `h: 0.01`, `samples: 500` and
    `as_published: false`.
    """

    name: ClassVar[str] = "EP"
    uses: ClassVar = "train"
    smoke: ClassVar[dict[str, Any]] = {"samples": 32}

    u: float = 3.0
    h: float = 0.1
    samples: int = 256
    augment: bool = True
    as_published: bool = True

    def __post_init__(self) -> None:
        check_range(self, "u", least=0, most=1000)
        # Narrower bins than these fill the memory with empty ones.
        check_range(self, "h", least=1e-3, most=1000)
        check_range(self, "samples", least=2, most=IMAGES)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        rows = torch.randperm(len(data), device=data.y.device)[: self.samples]
        peaks = channel_peaks(model, batch(data, rows, self.augment).x)
        low = {}
        for name, z in peaks.items():
            entropy = channel_entropy(z, self.h)
            low[name] = entropy < entropy.mean() - self.u * entropy.std()
            log.info("%s: pruned %d of %d channels", name, int(low[name].sum()), len(z))
        prune(model, low, bias=self.as_published)
        count, total = sum(int(c.sum()) for c in low.values()), sum(map(len, low.values()))
        note("pruned %d of %d channels", count, total)
        yield model


@torch.no_grad()
def channel_peaks(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """For each batch-norm layer the maxima of its input over positions, (C, B)."""
    peaks: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, name=name: peaks.__setitem__(name, args[0].amax((2, 3)).T)
        )
        for name, layer in batch_norms(model).items()
    ]
    try:
        model.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    return peaks


def channel_entropy(z: Tensor, h: float) -> Tensor:
    """Entropy in nats of each row's histogram after standardising it; (C, N) -> (C,).

    All rows share the bins of width h from their common minimum; both ends of a bin are open and
    the rest of the range that does not fill a bin is left out, as in the authors' code, so that
    counts, divided by N, need not sum to 1. A constant row has entropy 0.
    """
    std = z.std(1, keepdim=True)
    z = torch.where(std < 1e-8, 0.0, (z - z.mean(1, keepdim=True)) / std.clamp_min(1e-8))
    low = z.min()
    bins = int((z.max() - low) / h)
    edges = low + h * torch.arange(bins + 1, device=z.device, dtype=z.dtype)
    # The two sides disagree exactly for values on an edge.
    z = z.contiguous()
    left, right = torch.bucketize(z, edges), torch.bucketize(z, edges, right=True)
    inside = (left == right) & (left > 0) & (left <= bins)
    counts = z.new_zeros(len(z), bins + 2).scatter_add_(1, left, inside.to(z.dtype))
    q = counts / z.shape[1]
    return -torch.xlogy(q, q).sum(1)
