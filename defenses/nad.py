"""NAD: neural attention distillation (Li et al., ICLR 2021, arXiv 2101.05930)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data import Images
from benchmark.errors import check_range
from benchmark.train import Recipe, fit
from defenses.base import Defense, NotApplicable
from models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class NAD(Defense):
    """Distil the attention of a fine-tuned copy, the teacher, into the backdoored model.

    Minimises CE(f(x), y) + sum over stages l of beta_l MSE(a(F_l), a(T_l)), where F_l and T_l are
    the student's and the frozen teacher's feature maps and a(.) is `attention`.

    betas: weights of the stages, 0 or more. stages: names of the stages, one for each beta; when
    absent, the model's last ones. p: power of the attention map, above 0. repeated: in batch
    norm's running statistics count each batch as often as the published code runs it. teacher:
    how the teacher trains. recipe: how the student trains; SGD at 0.01, constant, 10 epochs.

    Note: the published cells come from code whose third stage is the pooled 1 x 1 map, where
    attention is constant; the two stages left are the defaults. `betas: [500, 1000, 1000]` and
    `repeated: false` give the method of the paper, three groups and one pass.
    """

    name: ClassVar[str] = "NAD"
    smoke: ClassVar[dict[str, Any]] = {"teacher": {"epochs": 1}, "recipe": {"epochs": 2}}

    betas: tuple[float, ...] = (500.0, 1000.0)
    stages: tuple[str, ...] | None = None
    p: float = 2.0
    repeated: bool = True
    teacher: Recipe = Recipe(epochs=10, batch_size=256, period=100)
    recipe: Recipe = Recipe(epochs=10, batch_size=256, schedule="constant")

    def __post_init__(self) -> None:
        check_range(self, "betas", least=0)
        check_range(self, "p", above=0)
        if not self.betas:
            raise ValueError("betas is empty, accepted: at least one")
        if self.stages is not None and len(self.stages) != len(self.betas):
            raise ValueError(f"stages is {self.stages}, accepted: {len(self.betas)} names")

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        stages = self.stages or model.stages[-len(self.betas) :]
        if len(stages) < len(self.betas):
            raise NotApplicable(f"needs {len(self.betas)} stages, the model has {len(stages)}")
        teacher = copy.deepcopy(model)
        for _ in fit(teacher, data, self.teacher):
            pass
        teacher.eval().requires_grad_(False)

        def loss(student: Classifier, x: Tensor, y: Tensor) -> Tensor:
            theirs, ours = teacher.features(x, *stages), student.features(x, *stages)
            value = F.cross_entropy(ours["logits"], y)
            for beta, stage in zip(self.betas, stages, strict=True):
                maps = attention(ours[stage], self.p), attention(theirs[stage], self.p)
                value = value + beta * F.mse_loss(*maps)
            return value

        with _repeated(model, stages[-1]) if self.repeated else nullcontext():
            yield from fit(model, data, self.recipe, loss=loss)


def attention(features: Tensor, p: float = 2.0) -> Tensor:
    """Attention map of each image, (B, H * W): sum over channels of |F|^p, scaled to norm 1.

    Raises:
        NotApplicable: features are not (B, C, H, W).
    """
    if features.ndim != 4:
        raise NotApplicable("needs feature maps of a convolutional network")
    energy = features.float().abs().pow(p).sum(1).flatten(1)
    return energy / (energy.norm(dim=1, keepdim=True) + 1e-6)


@contextmanager
def _repeated(model: Classifier, last: str) -> Iterator[None]:
    """Inside the block batch norm moves as if each batch ran through the layers several times.

    The published code takes features from truncated copies of the student, so one step runs the
    stage named `last` three times and everything before it four times, in training mode, on the
    same batch. k updates with momentum m equal one with 1 - (1 - m)^k.
    """
    layers = {n: m for n, m in model.body.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {name: layer.momentum for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            runs = 3 if f"{name}.".startswith(f"{last}.") else 4
            if layer.momentum is not None:
                layer.momentum = 1 - (1 - layer.momentum) ** runs
        yield
    finally:
        for name, layer in layers.items():
            layer.momentum = before[name]
