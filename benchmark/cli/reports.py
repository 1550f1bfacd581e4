"""The report of a results folder: where its rows are from, what they are compared with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.cli.origins import origin_of
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.standins import without_torch

if TYPE_CHECKING:
    from sau_bench.benchmark.grid.config import Config
    from sau_bench.benchmark.published import Reproduced
    from sau_bench.benchmark.report.published import Published
    from sau_bench.benchmark.report.remarks import Source


def write_report(folder: Path, config: Config, file: Path) -> None:
    """Write the report of `folder/rows.csv` and say where it is. file: of the config."""
    from sau_bench.benchmark.report.write import report

    source = source_of(folder, file)
    published = published_of([file])
    rules, averaged = config.select, config.average_collapsed
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
        f"python run_grid.py run {shlex.quote(config)}",
        f"python run_grid.py report {words}",
        origin_of(folder, file),
        texts,
    )


def is_current(folder: Path, config: Path) -> bool:
    """Whether the report is there, and its last file, `report.md`, newer than what it depends on.

    That is rows, config with its defaults, published numbers, and the code that draws it.
    """
    from sau_bench.benchmark.grid.config import files_of

    code = Path(__file__).parents[1]
    published = code.parent / "results" / "paper"
    sources = [*files_of(config), folder / "rows.csv", code / "rows.py", *published.glob("*.*")]
    sources += [code / "published.py", code / "grid" / "published.py"]
    sources += (file for file in (code / "report").rglob("*.*") if file.suffix != ".pyc")
    try:
        written = (folder / "report.md").stat().st_mtime_ns
        page = (folder / "report.html").is_file()
        return page and all(source.stat().st_mtime_ns < written for source in sources)
    except OSError:  # no report yet
        return False


def published_of(files: Sequence[Path]) -> Published | None:
    """The published numbers that the jobs of tables are compared with, found by what was run.

    None without published numbers, or if a grid cannot be made any more: its rows are reported
    nevertheless. files: of the tables.
    """
    from sau_bench.benchmark.published import read_paper
    from sau_bench.benchmark.report.published import Published

    if (paper := read_paper()) is None:
        return None

    def read_grid() -> Reproduced:
        from sau_bench.benchmark.grid.config import read_tables
        from sau_bench.benchmark.grid.grid import jobs_of, make_grid
        from sau_bench.benchmark.grid.published import reproduced

        return reproduced(jobs_of(make_grid(read_tables(file)[file]) for file in files), paper)

    try:
        return Published(paper, without_torch(read_grid))
    except InputError as error:
        print(f"published numbers are left out: {error}")
        return None
