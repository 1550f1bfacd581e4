"""Where jobs put their results and find those of others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from sau_bench.benchmark.rows import Row


class Draft(Protocol):
    """A folder that a job fills, see `benchmark.cache.store`."""

    @property
    def folder(self) -> Path: ...

    def write_json(self, name: str, value: Any) -> None: ...

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None: ...


class Store(Protocol):
    """Where results of jobs are, by key; `benchmark.cache.store.Store` is the one there is."""

    def __contains__(self, key: str) -> bool: ...

    def rows(self, key: str) -> list[Row]: ...

    def tensors(self, key: str, device: str = ...) -> dict[str, Tensor]: ...

    def draft(self, key: str) -> AbstractContextManager[Draft]: ...

    def checkpoint(self, key: str) -> Path: ...
