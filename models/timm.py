"""Any model of the timm library (Wightman, PyTorch Image Models) by name: `timm:resnet18`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import nearest
from sau_bench.models.classifier import Architecture, Classifier


@dataclass(frozen=True, kw_only=True)
class Timm(Architecture):
    """A timm model, randomly initialised, at the dataset's image size.

    model: name in timm. Models of fixed input size (vision transformers) are built for the
    dataset's images.
    """

    name: ClassVar[str] = "timm"
    argument: ClassVar[str] = "model"
    smoke: ClassVar[dict[str, str]] = {"model": "resnet10t"}

    model: str = "resnet18"

    # timm takes seconds to import, so only runs that use it pay for it.
    def __post_init__(self) -> None:
        import timm

        if not timm.is_model(self.model):
            raise ValueError(
                f"timm has no model {self.model!r}{nearest(self.model, timm.list_models())}"
            )

    @property
    def label(self) -> str:
        return self.model

    def __call__(self, dataset: Dataset) -> Classifier:
        import timm

        channels, height, width = dataset.shape
        config = timm.get_pretrained_cfg(self.model, allow_unregistered=True)
        fixed = config is not None and config.fixed_input_size
        size: dict[str, Any] = {"img_size": (height, width)} if fixed else {}
        body = timm.create_model(
            self.model, num_classes=dataset.num_classes, in_chans=channels, **size
        )
        traits: Any = body  # the attributes that timm adds are untyped
        stages = [info["module"] for info in getattr(traits, "feature_info", [])]
        return Classifier(
            body,
            head=traits.default_cfg["classifier"],
            stages=stages,
            mean=dataset.mean,
            std=dataset.std,
        )
