"""What every attack trains and every defense is handed: a classifier of images in [0, 1]."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.plugin import Plugin


class Classifier(nn.Module):
    """Normalisation, then a body that ends in a linear head.

    Perturbations and triggers therefore always live in pixel space.

    Args:
        body: maps normalised images (B, C, H, W) to logits (B, K).
        head: name of the final linear layer inside the body.
        stages: names of the body's submodules after which features are commonly read, in order.
        mean, std: per channel, of pixels in [0, 1].
        classifier: name of the submodule that maps features (B, D) to logits and begins with a
            linear layer, where there are several behind the convolutions (VGG19); default the head.

    Raises:
        ValueError: the head is not a linear layer, or the classifier does not begin with one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        *,
        head: str,
        stages: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        classifier: str | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head_name = head
        self.classifier_name = classifier or head
        self.stages = tuple(stages)
        for name in (self.head_name, self.classifier_name):
            if not isinstance(_first(body.get_submodule(name)), nn.Linear):
                raise ValueError(f"{name!r} begins with no linear layer")
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    @property
    def head(self) -> nn.Linear:
        head = self.body.get_submodule(self.head_name)
        assert isinstance(head, nn.Linear)
        return head

    @property
    def classifier(self) -> nn.Module:
        """The layers from features (B, D) to logits: the head, unless constructed otherwise."""
        return self.body.get_submodule(self.classifier_name)

    @property
    def first_linear(self) -> nn.Linear:
        """The first layer of the classifier, whose inputs are the features that FP prunes."""
        first = _first(self.classifier)
        assert isinstance(first, nn.Linear)
        return first

    @property
    def num_classes(self) -> int:
        return self.head.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 (B, K), of images in [0, 1], float (B, C, H, W)."""
        logits: Tensor = self.body((x - self.mean) / self.std)
        return logits.float()

    def features(self, x: Tensor, *names: str) -> dict[str, Tensor]:
        """Outputs of named submodules of the body in one forward pass, with gradients.

        Args:
            x: images in [0, 1], float (B, C, H, W).
            names: names of submodules, for instance from `stages`; "penultimate" is the input of
                the head, "flat" that of the classifier, both (B, D). "logits", (B, K), is always
                in the result.

        Raises:
            AttributeError: the body has no submodule of that name.
        """
        outputs: dict[str, Tensor] = {}
        inputs = {"penultimate": self.head, "flat": self.classifier}

        def record(name: str) -> torch.utils.hooks.RemovableHandle:
            if name in inputs:
                return inputs[name].register_forward_pre_hook(
                    lambda _, args: outputs.__setitem__(name, args[0])
                )
            return self.body.get_submodule(name).register_forward_hook(
                lambda _, __, out: outputs.__setitem__(name, out)
            )

        hooks: list[torch.utils.hooks.RemovableHandle] = []
        try:
            for name in names:
                if name != "logits":
                    hooks.append(record(name))
            outputs["logits"] = self(x)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs


def _first(module: nn.Module) -> nn.Module:
    """The module itself, or the first layer of a sequence."""
    return _first(module[0]) if isinstance(module, nn.Sequential) else module


@dataclass(frozen=True, kw_only=True)
class Architecture(Plugin):
    """A network architecture; called with a dataset, it makes a freshly initialised classifier."""

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset whose images the network cannot take, before a grid starts.

        Raises:
            ValueError: names the size and what is accepted.
        """

    @abstractmethod
    def __call__(self, dataset: Dataset) -> Classifier:
        """A classifier for the dataset's image shape and classes, drawn from torch's generator."""
