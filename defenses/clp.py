"""CLP: channel Lipschitzness based pruning (Zheng, Tang, Li & Liu, ECCV 2022, arXiv 2208.03111)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sau_bench.benchmark.data import Images
from sau_bench.benchmark.errors import check_range
from sau_bench.benchmark.notes import note
from sau_bench.defenses.base import Defense, NotApplicable
from sau_bench.defenses.batch_norm import batch_norms, prune
from sau_bench.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class CLP(Defense):
    """Prune channels whose weights alone bound their Lipschitz constant far above their layer's.

    A channel that answers to a small trigger must be sensitive to small changes. With W_k the
    weights of channel k of a convolution as a matrix (input channels, height x width), and gamma
    and sigma^2 the weight and the running variance of the batch norm behind it, channel k of a
    layer goes when

        s_k > mean(s) + u std(s),    s_k = |gamma_k / sigma_k| ||W_k||_2,

    ||.||_2 the largest singular value. No data are used.

    u: standard deviations, 0 to 1,000 (Tiny ImageNet: 5).

    Note: the paper defines s for a batch norm that follows a convolution. As in the code behind the
    published cells, each batch norm is paired with the convolution defined before it. On
    PreAct-ResNet18 the first batch norm of a block reads a sum instead; it is paired with the
    convolution of the shortcut before it, where there is one, else with the last one of the block
    before. Batch norm's epsilon is left out, a pruned channel loses weight and bias, and variances
    below 1e-8 count as that.
    """

    name: ClassVar[str] = "CLP"
    uses: ClassVar = "none"

    u: float = 3.0

    def __post_init__(self) -> None:
        check_range(self, "u", least=0, most=1000)

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        bounds = channel_bounds(model)
        high = {name: s > s.mean() + self.u * s.std() for name, s in bounds.items()}
        prune(model, high, bias=True)
        count, total = sum(int(c.sum()) for c in high.values()), sum(map(len, high.values()))
        note("pruned %d of %d channels", count, total)
        yield model


@torch.no_grad()
def channel_bounds(model: nn.Module) -> dict[str, Tensor]:
    """s of each channel, (C,), for each layer of `batch_norms`.

    Raises:
        NotApplicable: there is no batch norm, or one without running statistics or without a
            convolution of as many channels before it.
    """
    names = {id(layer): name for name, layer in batch_norms(model).items()}
    bounds: dict[str, Tensor] = {}
    conv: nn.Conv2d | None = None
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d) and id(module) in names:
            name = names[id(module)]
            if module.running_var is None:
                raise NotApplicable(f"batch norm {name!r} keeps no running statistics")
            if conv is None or conv.out_channels != module.num_features:
                raise NotApplicable(f"batch norm {name!r} follows no convolution of its channels")
            scale = module.weight.abs() / module.running_var.clamp_min(1e-8).sqrt()
            matrices = conv.weight.flatten(2)
            bounds[name] = scale * torch.linalg.matrix_norm(matrices, ord=2)
    return bounds
