"""Shared by ANP, EP and RNP: batch-norm channels as the neurons that pruning rates and removes."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sau_bench.defenses.base import NotApplicable


def batch_norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The affine batch-norm layers of convolutions by name, in the order of definition.

    Raises:
        NotApplicable: there is none.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.affine
    }
    if not layers:
        raise NotApplicable("needs batch norm")
    return layers


@torch.no_grad()
def prune(model: nn.Module, channels: Mapping[str, Tensor], *, bias: bool) -> None:
    """Set the weight of some channels to zero, in place, and their bias if asked.

    channels: for each layer of `batch_norms` a bool (C,), true where pruned. bias: whether to set
    the bias to zero as well; otherwise a pruned channel becomes constant.
    """
    for name, layer in batch_norms(model).items():
        layer.weight.masked_fill_(channels[name], 0)
        if bias:
            layer.bias.masked_fill_(channels[name], 0)


def pruned(model: nn.Module, channels: Tensor) -> nn.Module:
    """A copy with weight 0 in some channels, bool over all; it shares all other tensors."""
    layers = batch_norms(model)
    copied = {id(bn.weight) for bn in layers.values()}
    shared = [t for t in (*model.parameters(), *model.buffers()) if id(t) not in copied]
    result = copy.deepcopy(model, {id(t): t for t in shared})
    parts = channels.split([bn.num_features for bn in layers.values()])
    prune(result, dict(zip(layers, parts, strict=True)), bias=False)
    return result
