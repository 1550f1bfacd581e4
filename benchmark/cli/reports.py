"""The report of a results folder: where its rows are from, what they are compared with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.origins import origin_of
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.shipped import PAPER
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    from sau_bench.benchmark.grid.config import Config
    from sau_bench.benchmark.published import Reproduced
    from sau_bench.benchmark.report.published import Published
    from sau_bench.benchmark.report.remarks import Source


COMMAND = "sau-bench"
"""Not what this program was called by: the bytes of a report depend on its rows alone."""


def write_report(folder: Path, config: Config, file: Path) -> None:
    """Write the report of `folder/rows.csv` and say where it is. file: of the config."""
    from sau_bench.benchmark.report.write import report

    source = source_of(folder, file)
    rules, published = grids_of(config, [file])
    averaged = config.average_collapsed
    files = report(folder, rules, config.effective_acc, averaged, published, source)
    print(f"{folder / 'report.html'}, report.md and {len(files) - 2} tables and figures beside it")


def source_of(folder: Path, file: Path, title: str = "", options: Sequence[str] = ()) -> Source:
    """What a report says about its origin. file: of the config; options: of the verb `report`."""
    from sau_bench.benchmark.grid.config import files_of
    from sau_bench.benchmark.report.remarks import Source

    *above, name = file.resolve().parts
    inside = above[::-1].index("configs") + 1 if "configs" in above else 0
    config = Path(*above[len(above) - inside :], name).as_posix()
    texts = (
        {path.name: path.read_text(encoding="utf-8") for path in files_of(file)}
        if (file.is_file())
        else {}
    )
    words = " ".join(map(shlex.quote, [config, *options]))
    return Source(
        title or folder.name,
        f"{COMMAND} run {shlex.quote(config)}",
        f"{COMMAND} report {words}",
        origin_of(folder, file),
        texts,
        any(option.startswith("--merge=") for option in options),
    )


def is_current(folder: Path, config: Path) -> bool:
    """Whether the report is there, and its last file, `report.md`, newer than what it depends on.

    That is rows, config with its defaults, published numbers, and the code that draws it.
    """
    from sau_bench.benchmark.grid.config import files_of

    code = Path(__file__).parents[1]
    sources = [*files_of(config), folder / "rows.csv", code / "rows.py", *PAPER.glob("*.*")]
    sources += [code / "published.py", code / "grid" / "published.py"]
    sources += (file for file in (code / "report").rglob("*.*") if file.suffix != ".pyc")
    try:
        written = (folder / "report.md").stat().st_mtime_ns
        page = (folder / "report.html").is_file()
        return page and all(source.stat().st_mtime_ns < written for source in sources)
    except OSError:  # no report yet
        return False


def grids_of(config: Config, files: Sequence[Path]) -> tuple[Mapping[str, str], Published | None]:
    """What the jobs of tables say to a report: selection rules, by the labels of defenses, and the
    published numbers that the jobs are compared with, found by what was run.

    If a grid cannot be made any more, its rows are reported nevertheless: without published
    numbers, and rules are taken as those of labels. config: of the first table. files: of the
    tables.
    """
    from sau_bench.benchmark.published import read_paper
    from sau_bench.benchmark.report.published import Published

    paper = read_paper()

    def read_grids() -> tuple[Mapping[str, str], Reproduced | None]:
        from sau_bench.benchmark.grid.config import read_tables
        from sau_bench.benchmark.grid.grid import jobs_of, make_grid
        from sau_bench.benchmark.grid.published import reproduced

        grids = [make_grid(read_tables(file)[file]) for file in files]
        return grids[0].rules(config.select), reproduced(jobs_of(grids), paper) if paper else None

    try:
        rules, found = without_torch(read_grids)
    except InputError as error:
        print(f"published numbers are left out, and `select` is taken by labels: {error}")
        return config.select, None
    return rules, Published(paper, found) if paper and found else None
