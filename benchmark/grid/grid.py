"""From a config to its jobs, and from finished jobs to labelled rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sau_bench.benchmark.errors import InputError, listed, shown
from sau_bench.benchmark.grid.checks import rules_by_label
from sau_bench.benchmark.grid.config import Config, read_tables
from sau_bench.benchmark.grid.labels import Filters, check_names, filters_of
from sau_bench.benchmark.grid.outcomes import Failures, Results, rows_of
from sau_bench.benchmark.grid.places import Place, places_of
from sau_bench.benchmark.grid.plan import with_needs
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, DefenseJob, Job
from sau_bench.benchmark.plugin import Plugin, plugin_name
from sau_bench.benchmark.rows import COLUMNS, EXTRA_COLUMNS, MIN_ASR, MIN_CHANCES, Row

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Grid:
    """The labelled jobs of one table.

    places: each victim, followed by its defenses; then models trained on clean data, to compare the
    victims' ACC with.
    """

    places: Mapping[Job, Place]

    def cells(self) -> Iterator[tuple[AttackJob, DefenseJob | None]]:
        """Each victim undefended (None), then under each defense."""
        for job in self.places:
            if isinstance(job, AttackJob):
                yield job, None
            elif isinstance(job, DefenseJob):
                yield job.victim, job

    @property
    def victims(self) -> tuple[AttackJob, ...]:
        return tuple(job for job in self.places if isinstance(job, AttackJob))

    @property
    def references(self) -> tuple[AssetJob, ...]:
        """Models trained on clean data."""
        return tuple(job for job in self.places if isinstance(job, AssetJob))

    def jobs(self) -> list[Job]:
        """Every job once, what it needs before it."""
        return with_needs(self.places)

    def place(self, victim: AttackJob, defended: DefenseJob | None) -> Place:
        """Labels of a cell along each axis of the grid."""
        return self.places[defended or victim]

    def rules(self, select: Mapping[str, str]) -> dict[str, str]:
        """The selection rules of a config by the labels of this grid, see `rules_by_label`."""
        cells = ((self.place(victim, defended), defended) for victim, defended in self.cells())
        return rules_by_label(select, {p["defense"]: d.defense for p, d in cells if d})

    def rows(self, results: Results, failures: Failures | None = None) -> pd.DataFrame:
        """Labelled rows of the cells, in the grid's order.

        A job that is not finished has no row, or, where `failures` says why jobs failed, one row
        without scores. Rows that no table can use cost their cell and nothing else: one row takes
        their place, too. See `benchmark.rows.NO_RESULT`.
        """
        import pandas as pd

        rows: list[Row] = []
        for victim, defended in self.cells():
            job = defended or victim
            labels = {**self.place(victim, defended), "key": job.key, "victim": victim.key}
            table = labels | _of_the_table(defended)
            kind = defended.defense.yields if defended else "victim"
            measured = rows_of(job, kind, results, failures)
            rows.extend(_judged(victim, row) | table for row in measured)
        for clean in self.references:
            place = {**self.places[clean], "key": clean.key}
            rows.extend(row | place for row in rows_of(clean, "clean", results, failures))
        frame = pd.DataFrame(rows)
        frame = frame.reindex(columns=[*COLUMNS, *(c for c in EXTRA_COLUMNS if c in frame)])
        # Counts stay whole numbers beside rows that have none.
        return frame.astype(dict.fromkeys(("n_clean", "n_poisoned"), "Int64"))


def make_grid(config: Config, only: Sequence[str] = (), flag: str = "--only") -> Grid:
    """Build every plugin of a config; `only` keeps cells, see `filtered`.

    Raises:
        InputError: a plugin, field or value that does not exist, an entry that is there twice, a
            class that no dataset has, or a cell that cannot be finished.
    """
    return filtered([Grid(places_of(config))], only, flag)[0]


@dataclass(frozen=True)
class Table:
    """One table of a config: its file, what that says, and its grid."""

    file: Path
    config: Config
    grid: Grid


def make_tables(path: Path) -> list[Table]:
    """The tables of a config, each with a whole grid.

    Raises:
        InputError: as of `read_tables` and `make_grid`; there is no table, or they differ in what
            holds for a whole run: `data` and `deterministic`.
    """
    tables, configs = [], read_tables(path)
    for file, config in configs.items():
        try:
            tables.append(Table(file, config, make_grid(config)))
        except InputError as error:
            raise (error if len(configs) == 1 else InputError(f"{file}: {error}")) from None
    if not tables:
        raise InputError(
            f"{path} has no table; accepted: a config with datasets, models and attacks, or with "
            "include"
        )
    for key in ("data", "deterministic"):
        if len(values := list(dict.fromkeys(getattr(t.config, key) for t in tables))) > 1:
            raise InputError(f"{path}: {key} is {listed(map(shown, values))}, accepted: one value")
    return tables


def jobs_of(grids: Iterable[Grid]) -> list[Job]:
    """Every job of some grids once, what it needs before it."""
    return with_needs(job for grid in grids for job in grid.places)


def filtered(grids: Sequence[Grid], only: Sequence[str], flag: str = "--only") -> list[Grid]:
    """Of each grid the cells that texts such as "attack=lf,defense=sau" name.

    A name is that of a plugin, or a label. A grid in which an axis has none of the names that are
    wanted of it keeps nothing. flag: what errors call `only`.

    Raises:
        InputError: text of another form (`benchmark.grid.labels.filters_of`), or a name that is in
            none of the grids.
    """
    if not only:
        return list(grids)
    filters = filters_of(only, flag)
    named = [{job: names_of(job, place) for job, place in grid.places.items()} for grid in grids]
    found = [_united(names.values()) for names in named]
    check_names(filters, _united(found), flag)
    kept = []
    for grid, names, here in zip(grids, named, found, strict=True):
        wanted = all(here.get(axis, set()) & filters[axis] for axis in filters)
        kept.append(
            Grid(
                {
                    job: place
                    for job, place in grid.places.items()
                    if wanted and _is_kept(job, names[job], filters)
                }
            )
        )
    return kept


def names_of(job: Job, place: Place) -> dict[str, set[str]]:
    """What a job may be called along each of its axes."""
    plugins: dict[str, Plugin] = {}
    victim = job.victim if isinstance(job, DefenseJob) else job
    if isinstance(job, DefenseJob):
        plugins["defense"] = job.defense
    if isinstance(victim, AttackJob):
        plugins["attack"] = victim.attack
    if isinstance(victim, AttackJob | AssetJob):
        plugins |= {"dataset": victim.dataset, "model": victim.architecture}
    names = {axis: {plugin_name(plugin), place[axis]} for axis, plugin in plugins.items()}
    return names | {"seed": {str(place["seed"])}}


def _united(names: Iterable[Mapping[str, set[str]]]) -> dict[str, set[str]]:
    united: dict[str, set[str]] = {}
    for of_one in names:
        for axis, some in of_one.items():
            united.setdefault(axis, set()).update(some)
    return united


def _is_kept(job: Job, names: Filters, filters: Filters) -> bool:
    if isinstance(job, AssetJob) and filters.keys() & {"attack", "defense"}:
        return False  # the reference of a part that nobody asked for
    return all(names[axis] & wanted for axis, wanted in filters.items() if axis in names)


def _judged(victim: AttackJob, row: Row) -> Row:
    """The row; a victim that learned too little of its task or its backdoor is marked as collapsed.

    Collapsed: its ACC is below 2 / K, K the number of classes, or the ASR of one of its triggers is
    below 50 % (`benchmark.rows.MIN_CHANCES`, `MIN_ASR`).
    """
    if row["kind"] != "victim" or row["status"] != "ok":
        return row
    task_lost = row["acc"] < MIN_CHANCES / victim.dataset.num_classes
    weakest = min(row[name] for name in ("asr", "asr_1", "asr_2") if row.get(name) is not None)
    return row | ({"status": "collapsed"} if task_lost or weakest < MIN_ASR else {})


def _of_the_table(defended: DefenseJob | None) -> Row:
    """The columns of a cell that are no measurement: what the defense gets, how it is chosen."""
    if defended is None:
        return {"clean_ratio": None}
    defense = defended.defense
    budget = defended.clean_ratio if defense.uses == "clean" else None
    return {"clean_ratio": budget, "uses": defense.uses, "select": defense.select}
