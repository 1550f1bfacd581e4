"""What the tests of several attacks use."""

import torch
from torch import Tensor, nn

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.blended import Blended
from sau_bench.attacks.input_aware import InputAware
from sau_bench.attacks.lf import LF
from sau_bench.attacks.sig import SIG
from sau_bench.attacks.ssba import SSBA
from sau_bench.attacks.wanet import WaNet
from sau_bench.benchmark.train import Recipe
from sau_bench.models.classifier import Classifier

ATTACKS = [BadNets, Blended, SIG, WaNet, InputAware, LF, SSBA]


RECIPE = Recipe(epochs=2, batch_size=32, lr=0.05)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def constant(value: int, size: int) -> Tensor:
    return torch.full((1, 3, size, size), value / 255)


class Linear(Classifier):
    """Logits that are linear in the pixels, W x + b."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        body = nn.Sequential(nn.Flatten(), nn.Linear(weights.shape[1], weights.shape[0]))
        super().__init__(body, head="1", stages=(), mean=(0.0,) * 3, std=(1.0,) * 3)
        with torch.no_grad():
            self.head.weight.copy_(weights)
            self.head.bias.copy_(bias)
