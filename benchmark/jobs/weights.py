"""Weights of defended models, kept as what differs from the victim's."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

log = logging.getLogger(__name__)


class Kept:
    """The weights of some steps of a defense, as the tensors of its job.

    A pruned model differs from the victim in few tensors, so that all candidates of a pruning take
    little more room than one model.

    victim: the model before the defense.
    """

    def __init__(self, victim: nn.Module) -> None:
        self.victim = {name: value.clone() for name, value in victim.state_dict().items()}
        self.tensors: dict[str, Tensor] = {}

    def add(self, step: int, model: nn.Module) -> None:
        """Keep the model of a step; one that is no longer of its architecture is a warning."""
        weights = plain(model)
        if {name: value.shape for name, value in weights.items()} != {
            name: value.shape for name, value in self.victim.items()
        }:
            log.warning("the weights are not kept: the model is no longer of its architecture")
            return
        for name, value in weights.items():
            if not torch.equal(value, self.victim[name]):
                self.tensors[f"{step}.{name}"] = value.clone()
        self.tensors[f"{step}.kept"] = torch.ones(())


def plain(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model, with parametrised weights (FP's) as the tensors that they give."""
    bare = copy.deepcopy(model)
    for module in bare.modules():
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return dict(bare.state_dict())


def steps_of(tensors: Mapping[str, Tensor]) -> list[int]:
    """The steps whose weights are among the tensors of a job."""
    return sorted(int(name.removesuffix(".kept")) for name in tensors if name.endswith(".kept"))


def restore(victim: nn.Module, tensors: Mapping[str, Tensor], step: int) -> None:
    """Give the victim, in place, the weights of a step that was kept."""
    prefix = f"{step}."
    changed = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    changed.pop("kept")
    victim.load_state_dict(victim.state_dict() | changed)
