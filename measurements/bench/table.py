"""The JSON of a bench as Markdown, and the documents that quote it.

`python -m measurements.bench.table FOLDER...` writes `bench.md` anew from `bench.json`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"


def table(document: dict[str, Any]) -> str:
    """All that was measured as Markdown."""
    hardware, settings = document["hardware"], document["settings"]
    names = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
    instructions = [
        f"{'' if name in hardware['instructions'] else 'no '}{label}"
        for name, label in names.items()
    ]
    device = hardware["device"]
    if device != hardware["cpu"]:
        device += f"; {hardware['cpu']}"
    lines = [
        f"{device}, {hardware['cores']} cores, {', '.join(instructions)}; {hardware['versions']}; "
        f"{settings['model']}, {settings['dataset']}"
        f"{'' if settings['deterministic'] else '; deterministic: false'}; "
        f"{document['seconds']:.0f} s.",
        "",
        *_ceilings(document["ceilings"]),
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in document["measured"]:
        groups.setdefault(line["group"], []).append(line)
    compute = [
        line for g in ("training", "scoring", "defenses", "stamping") for line in groups.get(g, [])
    ]
    if compute:
        lines += ["", *_compute(compute, document["ceilings"])]
    if startup := groups.get("start-up"):
        heads = ("command in a fresh process", "seconds", "")
        started = ((x["name"], _n(x["product"]), x["note"]) for x in startup)
        lines += ["", *_rows(heads, started, left=(0, 2))]
    if growth := groups.get("growth"):
        grown = ((x["name"], x["note"], _n(x["product"])) for x in growth)
        lines += ["", *_rows(("grows with", "measured", "power"), grown, left=(0, 1))]
    if document["skipped"]:
        listed = "; ".join(f"{name} ({why})" for name, why in document["skipped"].items())
        lines += ["", f"Not measured: {listed}."]
    return "\n".join(lines) + "\n"


def _ceilings(ceilings: dict[str, float]) -> list[str]:
    cells = [
        ("copy of a tensor" if name == "copy" else f"matrix product {name}", _n(value))
        + (("GB/s",) if name == "copy" else ("GFLOP/s",))
        for name, value in ceilings.items()
    ]
    return _rows(("ceiling", "at most", ""), cells, left=(0, 2))


def _compute(measured: list[dict[str, Any]], ceilings: dict[str, float]) -> list[str]:
    heads = (
        *("work", "images/s", "plain", "ratio", "passes", "plain", "rate", "share"),
        *("images", "plain", "MiB"),
    )
    cells = (
        (
            x["name"], _n(x["product"]), _n(x["plain"]), _n(x["ratio"]), _n(x["passes"]),
            _n(x["plain_passes"]), f"{_n(x['rate'])} {x['rate_unit']}" if x["rate"] else "-",
            f"{x['rate'] / ceilings[x['against']]:.0%}" if x["rate"] else "-",
            _n(x["images"]), _n(x["plain_images"]), _n(x["peak_mib"]),
        )
        for x in measured
    )  # fmt: skip
    return _rows(heads, cells, left=(0,))


def _rows(heads: Sequence[str], cells: Iterable[Sequence[str]], left: Sequence[int]) -> list[str]:
    marks = ["---" if i in left else "---:" for i in range(len(heads))]
    return [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (heads, marks, *cells)]


def _n(value: float | None) -> str:
    """Three digits, thousands separated."""
    if value is None:
        return "-"
    value = float(f"{value:.3g}")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}"


def quote(file: Path) -> None:
    """Bring the block of `docs/performance.md` that quotes the file up to date, if there is one."""
    file = file.resolve()
    if not file.is_relative_to(ROOT) or not DOCUMENT.exists():
        return
    name = re.escape(file.relative_to(ROOT).as_posix())
    pattern = re.compile(rf"(<!-- from {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    text = DOCUMENT.read_text()
    changed = pattern.sub(lambda match: match[1] + file.read_text() + match[2], text)
    if changed != text:
        DOCUMENT.write_text(changed)


def main(folders: Sequence[str]) -> None:
    for folder in folders:
        file = Path(folder) / "bench.md"
        file.write_text(table(json.loads((Path(folder) / "bench.json").read_text())))
        quote(file)


if __name__ == "__main__":
    main(sys.argv[1:])
