"""The order of the measurements, their share of the time, and the file that grows with each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from measurements.bench.ceilings import copy_bandwidth, matrix_product, precisions
from measurements.bench.defenses import defense_items
from measurements.bench.growth import GROWTH
from measurements.bench.setting import Item, Record, Setting
from measurements.bench.startup import STARTUP
from measurements.bench.table import quote, table
from measurements.bench.work import SCORING, STAMPING, training_items
from sau_bench.benchmark.cost import hardware
from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import InputError, listed, nearest, one_line
from sau_bench.benchmark.loading import build
from sau_bench.models.classifier import Architecture

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
JSON, MARKDOWN = "bench.json", "bench.md"
CEILINGS = 0.03
"""Share of the time for the ceilings."""


def run(
    *,
    device: str,
    model: str,
    dataset: str,
    out: Path,
    only: Sequence[str],
    budget: float,
    deterministic: bool = True,
    say: Callable[[str], None] = print,
) -> int:
    """Measure, and write `bench.json` after each item and `bench.md` at the end into `out`.

    device: auto, cpu or cuda. model, dataset: names of plugins, as in a config; of the dataset the
    shape counts. only: items by name, by its first words, or by group. budget: seconds for
    everything; items for which none are left are named as skipped. deterministic: as in a config.
    say: is told each line of the table as it is measured.

    Returns the exit status: 1 if an item failed.

    Raises:
        InputError: no such device, plugin or item.
    """
    start = time.perf_counter()
    setting = Setting(_device(device), *_plugins(dataset, model), deterministic=deterministic)
    items = _chosen(only, setting.device)
    out.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "hardware": describe(setting.device),
        "settings": {"model": model, "dataset": dataset, "deterministic": deterministic},
        "seconds": 0.0,
        "ceilings": {},
        "measured": [],
        "skipped": {},
    }
    before = _earlier(out / JSON, document) if only else document
    raise_ceilings(setting, CEILINGS * budget)
    failed = 0
    order = [item.name for item in _chosen((), setting.device)]
    for number, item in enumerate(items):
        left = start + budget - time.perf_counter()
        share = left * item.weight / sum(i.weight for i in items[number:])
        if left <= 0:
            document["skipped"][item.name] = "no time left"
        else:
            try:
                line = item.measure(setting, share)
                document["measured"].append(line.as_json())
                say(_short(line))
                # What else runs on the machine lowers a ceiling that is measured but once.
                raise_ceilings(setting, min(1.0, CEILINGS * share))
            except Exception as error:  # one broken item costs its own line
                failed += 1
                document["skipped"][item.name] = f"{type(error).__name__}: {one_line(error)[:300]}"
                say(f"{item.name}: {document['skipped'][item.name]}")
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()
        document["ceilings"] = {name: float(f"{v:.4g}") for name, v in setting.ceilings.items()}
        document["seconds"] = round(time.perf_counter() - start, 1)
        _write(out / JSON, json.dumps(_merged(before, document, order), indent=1) + "\n")
    _write(out / MARKDOWN, table(json.loads((out / JSON).read_text())))
    quote(out / MARKDOWN)
    say(f"{out / JSON}\n{out / MARKDOWN}")
    return int(failed > 0)


def raise_ceilings(setting: Setting, seconds: float) -> None:
    """Measure all ceilings again; the highest counts."""
    kinds = precisions(setting.device)
    share = seconds / (len(kinds) + 1)
    found: dict[str, float] = {kind: matrix_product(kind, setting.device, share) for kind in kinds}
    found["copy"] = copy_bandwidth(setting.device, share)
    for name, value in found.items():
        setting.ceilings[name] = max(value, setting.ceilings.get(name, 0.0))


def describe(device: torch.device) -> dict[str, Any]:
    """The hardware that counts, by name."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    return {
        **hardware(device),
        "cpu": hardware(torch.device("cpu"))["device"],
        "cores": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "threads": torch.get_num_threads(),
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device is 'cuda', and torch sees no GPU here; accepted: auto, cpu")
    return torch.device(name)


def _plugins(dataset: str, model: str) -> tuple[Dataset, Architecture]:
    data, architecture = build("datasets", dataset), build("models", model)
    assert isinstance(data, Dataset) and isinstance(architecture, Architecture)
    return data, architecture


def _chosen(only: Sequence[str], device: torch.device) -> list[Item]:
    """Certain and short items first, so that a short budget drops the long tail."""
    items = [
        *training_items(precisions(device)), SCORING, *STAMPING, *STARTUP, *defense_items(), *GROWTH
    ]  # fmt: skip
    names = list(dict.fromkeys(name for item in items for name in (item.group, item.name)))

    def named(item: Item, name: str) -> bool:
        return name in (item.group, item.name) or item.name.startswith(f"{name} ")

    for name in only:
        if not any(named(item, name) for item in items):
            raise InputError(
                f"--only is {name!r}, accepted: {listed(names, 1000)}{nearest(name, names)}"
            )
    return [item for item in items if not only or any(named(item, name) for name in only)]


def _earlier(file: Path, document: dict[str, Any]) -> dict[str, Any]:
    """What the file has measured, if it was of the same hardware and network; else nothing."""
    if not file.exists():
        return document
    before: dict[str, Any] = json.loads(file.read_text())
    same = all(before.get(part) == document[part] for part in ("hardware", "settings"))
    return before if same else document


def _merged(before: dict[str, Any], now: dict[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Items of now in place of those of before; the highest ceilings, the seconds of both."""
    if before is now:
        return now
    done = {line["name"]: line for line in (*before["measured"], *now["measured"])}
    skipped = {name: why for name, why in before["skipped"].items() if name in order}
    skipped = {name: why for name, why in skipped.items() if name not in done}
    return now | {
        "seconds": round(before["seconds"] + now["seconds"], 1),
        "ceilings": {
            name: max(value, before["ceilings"].get(name, 0.0))
            for name, value in now["ceilings"].items()
        },
        "measured": [done[name] for name in order if name in done],
        "skipped": skipped | now["skipped"],
    }


def _short(line: Record) -> str:
    text = f"{line.name}: {line.product:.4g} {line.unit}"
    return text + (f", {line.ratio:.3g} times plain" if line.ratio else "")


def _write(file: Path, text: str) -> None:
    """In one step, so that a kill leaves the old text or the new one."""
    draft = file.with_suffix(f"{file.suffix}.draft")
    draft.write_text(text)
    draft.replace(file)
