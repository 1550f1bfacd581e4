"""Between the command line and the driver: where jobs run, and how long that may take."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from benchmark.cli.progress import duration
from benchmark.errors import InputError
from benchmark.grid.config import Config
from benchmark.run.durations import Durations, Plan, wall_time
from benchmark.run.local import Pool, SlotPool

UNITS = {"h": 3600, "m": 60, "s": 1}
IMPORTS = ("benchmark.jobs.work",)


def seconds(text: str, flag: str) -> float:
    """Seconds of "90s", "30m", "2h" or "1h30m".

    Raises:
        InputError: anything else, and zero.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    total = sum(
        int(number) * unit
        for number, unit in zip(found.groups("0") if found else (), UNITS.values(), strict=False)
    )
    if not total:
        raise InputError(f"{flag} is {text!r}, accepted: such as 90s, 30m, 2h or 1h30m")
    return float(total)


def local_pool(device: str, per_device: int, limit: float | None) -> tuple[SlotPool, str]:
    """One slot, or several, on each chosen device of this machine; and the device's name in rows.

    Raises:
        InputError: a device that is not there.
    """
    import torch

    from benchmark.cost import hardware

    slots = _slots(device, per_device, torch.cuda.device_count())
    kind = torch.device("cuda" if slots[0] else "cpu")
    return SlotPool(slots, limit=limit, imports=IMPORTS), str(hardware(kind)["device"])


def cluster_pool(scheduler: str | None, resource: str, limit: float | None) -> Pool:
    """The slots that a Dask cluster offers.

    Raises:
        InputError: distributed is not installed, or no such cluster answers.
    """
    if scheduler is None:
        raise InputError("--engine dask needs --scheduler ADDRESS or --scheduler FILE")
    from benchmark.run.dask import DaskPool

    return DaskPool(scheduler, resource, limit=limit, imports=IMPORTS)


def forced(config: Config, force: str, plan: Plan) -> set[str]:
    """Keys of the plan's jobs that `--force` names: whole cells, or of them the defenses only.

    Raises:
        InputError: an axis or a name that the grid has not.
    """
    from benchmark.grid.grid import make_grid
    from benchmark.grid.plan import make_plan

    if not force:
        return set()
    try:
        grid = make_grid(config, force)
    except InputError as error:
        raise InputError(str(error).replace("--only", "--force", 1)) from None
    only_defenses = any(part.strip().startswith("defense") for part in force.split(","))
    cells = [defended or victim for victim, defended in grid.cells()]
    named = make_plan(job for job in cells if job not in grid.victims or not only_defenses)
    return set(named) & set(plan)


def preview(
    plan: Plan, done: Collection[str], durations: Durations, slots: int, per_device: int = 1
) -> str:
    """What a run would do, and about how long that takes."""
    missing = [key for key in plan if key not in done]
    text = f"{len(plan)} jobs: {len(plan) - len(missing)} cached, {len(missing)} to run"
    if not missing:
        return text
    work = sum(durations.seconds(plan[key]) for key in missing) / per_device
    wall = wall_time(plan, {}, missing, slots, durations)
    guessed = sum(not durations.is_measured(plan[key]) for key in missing)
    text += f"\nabout {work / 3600:.2f} device hours, {duration(wall)} on {_count(slots, 'slot')}"
    if guessed:
        text += f"; a guess for {guessed} of them: nothing like these was measured on this device"
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _slots(device: str, per_device: int, count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES says in each slot, "" for the CPU."""
    if per_device < 1:
        raise InputError(f"--per-device is {per_device}, accepted: at least 1")
    if device == "auto":
        device = "cuda" if count else "cpu"
    if device == "cpu":
        return [""] * per_device
    indices = [str(i) for i in range(count)] if device == "cuda" else device.split(",")
    if not indices or not all(i.isdecimal() and int(i) < count for i in indices):
        raise InputError(
            f"--device {device!r}: this machine has {count} CUDA devices; accepted: auto, cpu, "
            "cuda, or indices such as 0,1"
        )
    # Indices count what this process may see: a batch system lends some devices, by their names.
    lent = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = lent.split(",") if lent else [str(i) for i in range(count)]
    return [names[int(i)].strip() for i in indices] * per_device
