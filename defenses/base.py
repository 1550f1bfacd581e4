"""What a defense is: a generator of models. The harness scores what it yields."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

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

    uses: ClassVar[Literal["clean", "train"]] = "clean"
    """The one dataset it is handed: the defender's clean subset or the poisoned training set."""
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
        """Defend `model`, a backdoored model that the method may change in place.

        Args:
            model: on the data's device.
            data: n images with labels, as `uses` says.

        Raises:
            NotApplicable: the method is not defined for this model.
        """
