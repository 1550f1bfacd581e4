"""What a defense is: a generator of models. The harness scores what it yields."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sau_bench.benchmark.data import Dataset, Images
from sau_bench.benchmark.plugin import Plugin
from sau_bench.models.classifier import Architecture, Classifier

Candidate = tuple[float, nn.Module]
"""A setting (a pruning threshold, say) and the model that it gives."""


class NotApplicable(Exception):
    """The method is not defined for this model, for instance because it has no batch norm."""


@dataclass(frozen=True, kw_only=True)
class Defense(Plugin):
    """A backdoor defense.

    It never evaluates, saves, picks a device or sees test data. What a reader of the table should
    know of a row that is as it should be (nothing was flagged, say) it notes with
    `benchmark.notes.note`; what went wrong it logs as a warning. The harness writes both into the
    row.
    """

    uses: ClassVar[Literal["clean", "train", "none"]] = "clean"
    """The one dataset it is handed: the defender's clean subset, the poisoned training set, or none
    at all (an empty one)."""
    starts: ClassVar[Literal["victim", "untrained"]] = "victim"
    """The model it is handed: the backdoored one, or, for a method that trains a model of its own,
    a fresh one of the same architecture with the weights that the victim started from."""
    rejects: ClassVar[bool] = False
    """Whether its models may reject an image: they have one class more than the dataset, the last,
    which stands for that (`with_rejection`). A rejected image counts as wrong for ACC and R-ACC and
    as no success for ASR."""
    yields: ClassVar[Literal["rounds", "candidates"]] = "rounds"
    """Rounds: models in order, the last one counts. Candidates: (setting, model) pairs, one of
    which a named rule selects."""
    select: ClassVar[str] = "last"
    """The default selection rule, see `benchmark.report.tables`."""

    def check(self, architecture: Architecture, dataset: Dataset) -> None:
        """Refuse what cannot be defended with these fields, before a grid starts.

        Raises:
            ValueError: names the field, its value and what is accepted.
        """

    @property
    def settings(self) -> tuple[float, ...] | None:
        """The settings of its candidates where they are known before it runs, or None."""
        return None

    @abstractmethod
    def __call__(
        self, model: Classifier, data: Images
    ) -> Iterator[nn.Module] | Iterator[Candidate]:
        """Defend `model`, which the method may change in place.

        Args:
            model: on the data's device, as `starts` says.
            data: n images with labels, as `uses` says.

        Raises:
            NotApplicable: the method is not defined for this model.
        """


DECLARED: Mapping[str, tuple[object, ...]] = {
    "uses": ("clean", "train", "none"),
    "starts": ("victim", "untrained"),
    "rejects": (False, True),
    "yields": ("rounds", "candidates"),
}
"""What the class variables of a defense may say."""


def with_rejection(logits: Tensor, rejected: Tensor) -> Tensor:
    """Logits of a model that may reject images: (B, K) and bool (B,) -> (B, K + 1).

    The last one is above the others of its row where the image is rejected, and below elsewhere.
    """
    above, below = logits.amax(1) + 1, logits.amin(1) - 1
    return torch.cat((logits, torch.where(rejected, above, below)[:, None]), 1)
