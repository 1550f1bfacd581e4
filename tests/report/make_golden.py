"""Write the golden rows and tables of the report: `python tests/report/make_golden.py`.

The rows come from the harness: the grid of `golden.yaml` is run on the CPU, which takes several
minutes. Seconds, memory, device and versions differ from machine to machine, so fixed values
replace them; everything else is what the harness wrote. Some jobs fail on purpose, and one result
is removed. With `--tables` the grid is not run: the
tables are written anew from the rows that are there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.main import main
from sau_bench.benchmark.cli.run import INCOMPLETE
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.report.write import report

CONFIG = Path(__file__).with_name("golden.yaml")
GOLDEN = Path(__file__).with_name("golden")
DRAWN = (".pdf", ".png", ".html")
"""Files whose looks may change while their numbers stay."""


def make_rows() -> None:
    """Run the grid and write `golden/rows.csv`."""
    with TemporaryDirectory() as folder:
        if main(["run", str(CONFIG), "--results", folder, "--device", "cpu"]) != INCOMPLETE:
            raise SystemExit("no job has failed, the golden rows stay as they were")
        grid, store = make_grid(read(CONFIG)), Store(Path(folder, "cache"))
        cells = [defended for _, defended in grid.cells() if defended]
        store.remove(next(d for d in cells if d.victim.seed and d.defense.name == "EP").key)
        file = Path(folder, "rows.csv")
        grid.rows(store, store.failure).to_csv(file, index=False)
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    step = rows["step"].astype(int)
    fixed = {"peak_mib": 100.0, "device": "test device", "versions": "test 1.0"}
    GOLDEN.mkdir(exist_ok=True)
    rows.assign(seconds=10.0 * (step + 1), **fixed).to_csv(GOLDEN / "rows.csv", index=False)


def make_tables(folder: Path) -> list[Path]:
    """Write the report of the golden rows into `folder`/golden; returns its tables and report.md.

    Paths are relative to that folder.
    """
    copy = folder / GOLDEN.name
    copy.mkdir()
    (copy / "rows.csv").write_bytes((GOLDEN / "rows.csv").read_bytes())
    config = read(CONFIG)
    files = report(copy, config.select, config.effective_acc, config.average_collapsed)
    return [file.relative_to(copy) for file in files if file.suffix not in DRAWN]


if __name__ == "__main__":
    if "--tables" not in sys.argv[1:]:
        make_rows()
    for file in set(GOLDEN.rglob("*.*")) - {GOLDEN / "rows.csv"}:
        file.unlink()
    with TemporaryDirectory() as folder:
        for file in make_tables(Path(folder)):
            (GOLDEN / file).parent.mkdir(exist_ok=True)
            (GOLDEN / file).write_bytes((Path(folder, GOLDEN.name) / file).read_bytes())
