"""NAD: neural attention distillation (Li et al., ICLR 2021, arXiv 2101.05930)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.errors import check_range, listed
from sau_bench.benchmark.notes import note
from sau_bench.benchmark.train import Batch, Recipe, fit, train_model
from sau_bench.defenses.base import Defense, NotApplicable
from sau_bench.models.classifier import Architecture, Classifier


@dataclass(frozen=True, kw_only=True)
class NAD(Defense):
    """Distil the attention of a fine-tuned copy, the teacher, into the backdoored model.

    Minimises CE(f(x), y) + sum over stages l of beta_l MSE(a(F_l), a(T_l)), where F_l and T_l are
    the student's and the frozen teacher's feature maps and a(.) is `attention`.

    betas: weights of the stages, 0 or more; when absent, those that `as_published` says. stages:
    names of the stages, one for each beta; when absent, the last ones of the model. p: power of the
    attention map, above 0 and at most 100. teacher: how the teacher trains. recipe: how the student
    trains; SGD at 0.01, constant, 10 epochs. as_published: betas of (500, 1000), and running
    statistics of batch norm that count each batch as often as the code behind the published cells
    runs it; if false (the paper), betas of (500, 1000, 1000), three groups, and one pass.

    Note: the third stage of the code behind the published cells is the pooled 1 x 1 map, where
    attention is constant and gives no loss; the two others are the defaults here.
    """

    name: ClassVar[str] = "NAD"
    smoke: ClassVar[dict[str, Any]] = {"teacher": {"epochs": 1}, "recipe": {"epochs": 2}}

    betas: tuple[float, ...] | None = None
    stages: tuple[str, ...] | None = None
    p: float = 2.0
    teacher: Recipe = Recipe(epochs=10, batch_size=256, period=100)
    recipe: Recipe = Recipe(epochs=10, batch_size=256, schedule="constant")
    as_published: bool = True

    def __post_init__(self) -> None:
        check_range(self, "betas", least=0)
        check_range(self, "p", above=0, most=100)
        if not self.weights:
            raise ValueError("betas is empty, accepted: at least one")
        if self.stages is not None and len(self.stages) != len(self.weights):
            raise ValueError(f"stages is {self.stages}, accepted: {len(self.weights)} names")
        if self.stages is not None and (
            "" in self.stages or len(set(self.stages)) < len(self.stages)
        ):
            raise ValueError(f"stages is {self.stages}, accepted: different names")

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of the stages that are used."""
        if self.betas is not None:
            return self.betas
        return (500.0, 1000.0) if self.as_published else (500.0, 1000.0, 1000.0)

    def check(self, architecture: Architecture, dataset: Dataset) -> None:
        if self.stages is None:
            return
        with torch.device("meta"):  # names without numbers
            model = architecture(dataset)
        layers = dict(model.body.named_modules())
        if unknown := [stage for stage in self.stages if stage not in layers]:
            raise ValueError(
                f"stages: {architecture.label} has no {listed(unknown)}; "
                f"accepted: {listed(model.stages)} or other submodules of the body"
            )

    def __call__(self, model: Classifier, data: Images) -> Iterator[nn.Module]:
        betas = self.weights
        stages = self.stages or model.stages[-len(betas) :]
        if len(stages) < len(betas):
            raise NotApplicable(f"needs {len(betas)} stages, the model has {len(stages)}")
        note_constant_attention(model, data, stages)
        teacher = copy.deepcopy(model)
        train_model(teacher, data, self.teacher)
        teacher.eval().requires_grad_(False)

        def loss(student: Classifier, batch: Batch) -> Tensor:
            targets = teacher.features(batch.x, *stages)
            outputs = student.features(batch.x, *stages)
            value = F.cross_entropy(outputs["logits"], batch.y)
            for beta, stage in zip(betas, stages, strict=True):
                maps = attention(outputs[stage], self.p), attention(targets[stage], self.p)
                value = value + beta * F.mse_loss(*maps)
            return value

        with _repeated(model, stages[-1]) if self.as_published else nullcontext():
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


@torch.no_grad()
def note_constant_attention(model: Classifier, data: Images, stages: Sequence[str]) -> None:
    """Note which stages have maps of one pixel: attention is 1 there, and its loss has no gradient.

    Raises:
        NotApplicable: outputs of a stage are not (B, C, H, W).
    """
    outputs = model.eval().features(data.floats(slice(1)), *stages)
    constant = [stage for stage in stages if attention(outputs[stage]).shape[1] == 1]
    if constant:
        note("no attention loss from maps of one pixel: %s", ", ".join(constant))


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
