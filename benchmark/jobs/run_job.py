"""Run one job. What it calls is the only place that holds test data and scores a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sau_bench.benchmark.cost import arithmetic, hardware
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.jobs.defend import defend
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from sau_bench.benchmark.jobs.journal import journal
from sau_bench.benchmark.jobs.results import Store
from sau_bench.benchmark.jobs.surroundings import Surroundings
from sau_bench.benchmark.jobs.victims import make_asset, train_victim


def run_job(
    job: Job,
    store: Store,
    data: Path,
    device: torch.device | None = None,
    deterministic: bool = True,
) -> None:
    """Run the job and publish its folder; a job that is published already is left alone.

    Args:
        data: folder of the datasets.
        device: by default the one GPU that this process sees, or else the CPU.
        deterministic: whether a GPU has to use kernels that give the same bits each time; on a CPU
            all do.

    Raises:
        InputError: the text of a plugin, or a file that enters the key, is not what it was when the
            job was planned.
        Exception: whatever the method raises; nothing is published then.
    """
    if job.key in store:
        return
    if changes := job.changes():
        raise InputError(
            f"{job}: changed since the job was planned: {', '.join(changes)}; run again"
        )
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    deterministic = deterministic or device.type == "cpu"
    with store.draft(job.key) as draft:
        draft.write_json("job.json", job.identity)
        draft.write_json("texts.json", job.texts)
        with journal(draft.folder / "log.jsonl", job.plugins.values()) as texts:
            match job:
                case AssetJob():
                    with Surroundings(job.dataset, data, device, deterministic) as run:
                        rows = make_asset(job, run, store, draft)
                case AttackJob():
                    with Surroundings(job.dataset, data, device, deterministic) as run:
                        rows = train_victim(job, run, store, draft)
                case DefenseJob():
                    with Surroundings(job.victim.dataset, data, device, deterministic) as run:
                        rows = defend(job, run, store, draft)
                case _:
                    raise TypeError(f"{type(job).__name__} is no kind of job")
        common = {**texts(), **hardware(device), **arithmetic(_trained_by(job), deterministic)}
        draft.write_json("rows.json", [row | common for row in rows])


def _trained_by(job: Job) -> dict[str, Any]:
    """The fields that say how the job trains, by role."""
    match job:
        case DefenseJob():
            return {"defense": asdict(job.defense)}
        case AttackJob():
            return {"attack": asdict(job.attack), "recipe": asdict(job.recipe)}
        case AssetJob() if job.asset.model_state != "fresh":
            return {"asset": asdict(job.asset)}
        case AssetJob():
            return {"asset": asdict(job.asset), "recipe": asdict(job.recipe)}
    return {}
