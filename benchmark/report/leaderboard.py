"""One page of the rows of several result folders or people, with who can be compared with whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pandas import DataFrame

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.report import tables
from sau_bench.benchmark.report.boards import Board, Entry, boards
from sau_bench.benchmark.report.lines import names_of, properties, runs_of
from sau_bench.benchmark.report.merge import Conflict, Setting, merged
from sau_bench.benchmark.report.page import Entry as Line
from sau_bench.benchmark.report.page import Listing, Value, listing, render, shown
from sau_bench.benchmark.report.read import read_rows
from sau_bench.benchmark.report.render import MARKS, MEANINGS, METRICS, pipes

SECTIONS = {
    "disagree": "What the sources disagree about",
    "boards": "Averages",
    "entries": "All entries",
    "sources": "Sources",
}
RULE = (
    "Entries are comparable where dataset, architecture, attack with its fields and the training "
    "of its victims, poisoning ratio, the data of the defense and the selection rule agree. "
    "A board is one such setting; ranks are by DER among the entries of a board on one attack."
)
DISPUTED = "?"


def leaderboard(
    sources: Mapping[str, Path],
    settings: Mapping[str, Setting],
    rules: Mapping[str, Mapping[str, str]],
    folder: Path,
) -> list[Path]:
    """Write `leaderboard.html`, `.md` and `.csv` of the rows of several files into `folder`.

    sources: files of rows by name. settings: what jobs are, by key, as far as it is known. rules:
    by source the selection rules of defenses that replace those of its rows.

    Raises:
        InputError: a file that is no table of rows, or has none of a defense.
    """
    chosen = {name: _selected(file, rules.get(name, {})) for name, file in sources.items()}
    rows, conflicts = merged(chosen, settings)
    found = boards(rows, conflicts)
    if not found:
        raise InputError(f"no row of a defense in {', '.join(map(str, sources.values()))}")
    texts = {
        "leaderboard.html": _page(found, conflicts, chosen, sources),
        "leaderboard.md": _markdown(found, conflicts, chosen, sources),
        "leaderboard.csv": _frame(found).to_csv(
            index=False, float_format="%.2f", lineterminator="\n"
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in texts]


def _selected(file: Path, rules: Mapping[str, str]) -> DataFrame:
    rows = read_rows(file)
    try:
        return tables.select(rows[rows["kind"] != "clean"], rules)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error


def _differences(found: Sequence[Board]) -> Iterator[str]:
    first = found[0]
    for board in found[1:]:
        yield (
            f"Board {board.number} cannot be compared with board 1: {board.differs(first)}; "
            "in brackets board 1."
        )


def _records(found: Sequence[Board]) -> Iterator[tuple[Board, Entry, int | None]]:
    """Each entry with its board and rank; undefended models once, with the first board."""
    told: set[int] = set()
    for board in found:
        for victim in board.victims:
            if id(victim) not in told:
                told.add(id(victim))
                yield board, victim, None
        ranks = board.ranks()
        for entry in board.entries:
            rank = ranks.get((entry.attack, entry.defense)) if entry.sound else None
            yield board, entry, rank


def _frame(found: Sequence[Board]) -> DataFrame:
    records = []
    for board, entry, rank in _records(found):
        dataset, model, ratio, data, rule = entry.setting
        record: dict[str, object] = {
            "board": board.number, "dataset": dataset, "model": model, "attack": entry.attack,
            "defense": entry.defense, "poisoning ratio": ratio, "data": data, "selection": rule,
        }  # fmt: skip
        for metric in METRICS:
            record |= {metric: entry.mean(metric), f"{metric} std": entry.std(metric)}
        record |= {
            "rank": rank, "n": len(entry.seeds), "seeds": " ".join(map(str, entry.seeds)),
            "status": entry.state, "disputed": entry.disputed, "hardware": entry.those("device"),
            "versions": entry.those("versions"), "keys": entry.those("key"),
            "sources": entry.those("source"),
        }  # fmt: skip
        records.append(record)
    return DataFrame(records).astype({"rank": "Int64"})


def _sources(chosen: Mapping[str, DataFrame], files: Mapping[str, Path]) -> list[list[str]]:
    """A line for each source, the titles first."""
    lines = [["Source", "File", "Runs", "Seeds", "Hardware", "Versions"]]
    for name, rows in chosen.items():
        seeds = ", ".join(map(str, sorted(rows["seed"].unique())))
        texts = ("; ".join(t for t in rows[c].unique() if t) for c in ("device", "versions"))
        lines.append([name, str(files[name]), str(len(rows)), seeds, *texts])
    return lines


def _markdown(
    found: Sequence[Board],
    conflicts: Sequence[Conflict],
    chosen: Mapping[str, DataFrame],
    files: Mapping[str, Path],
) -> str:
    parts = ["# Leaderboard", RULE]
    if conflicts:
        parts.append("## " + SECTIONS["disagree"])
        parts.append("\n".join(f"- {conflict.text}" for conflict in conflicts))
    parts += ["## " + SECTIONS["boards"], *_differences(found)]
    for board in found:
        parts += [table.markdown().strip() for table in board.averages()]
    columns = ["Board", "Defense", "Attack", *METRICS.values(), "Rank", "n", "Status", "Sources"]
    lines = [columns]
    for board, entry, rank in _records(found):
        scores = [entry.text(metric) for metric in METRICS]
        lines.append(
            [
                *(str(board.number), entry.defense, entry.attack, *scores),
                *(str(rank or "-"), str(len(entry.seeds)), entry.state, entry.those("source")),
            ]
        )
    marks = [f"{mark} {meaning}" for mark, meaning in _marks(found).items()]
    parts += ["## " + SECTIONS["entries"], pipes(lines, left=3)]
    parts += [f"Marks: {'; '.join(marks)}."] if marks else []
    parts += ["## " + SECTIONS["sources"], pipes(_sources(chosen, files), left=2)]
    return "\n\n".join(parts) + "\n"


def _marks(found: Sequence[Board]) -> dict[str, str]:
    entries = [entry for _, entry, _ in _records(found)]
    states = {entry.state for entry in entries}
    marks = {m: s + MEANINGS.get(s, "") for s, m in MARKS.items() if s in states}
    if any(entry.disputed for entry in entries):
        marks[DISPUTED] = "disputed: sources have other numbers; neither ranked nor averaged"
    return marks


def _page(
    found: Sequence[Board],
    conflicts: Sequence[Conflict],
    chosen: Mapping[str, DataFrame],
    files: Mapping[str, Path],
) -> str:
    sections = {n: title for n, title in SECTIONS.items() if n != "disagree" or conflicts}
    runs = sum(map(len, chosen.values()))
    return render(
        "leaderboard.html",
        title="Leaderboard",
        about=f"{runs} runs of {len(chosen)} sources on {len(found)} boards.",
        sections=sections,
        rule=RULE,
        conflicts=[conflict.text for conflict in conflicts],
        differences=[*_differences(found)],
        boards=[
            {"board": board, "tables": [shown(table) for table in board.averages()]}
            for board in found
        ],
        entries=_listing(found),
        sources=_sources(chosen, files),
    )


def _listing(found: Sequence[Board]) -> Listing:
    titles = ["Defense", "Attack", "Board", *METRICS.values()]
    titles += ["Rank", "n", "Sources", "Status"]
    entries = []
    for place, (board, entry, rank) in enumerate(_records(found)):
        dataset, model, ratio, data, rule = entry.setting
        values = [Value.of(entry.defense), Value.of(entry.attack), Value.of(str(board.number))]
        values += [Value.of(entry.text(m), entry.mean(m)) for m in METRICS]
        place_in = float("nan") if rank is None else float(rank)
        values.append(Value.of("-" if rank is None else str(rank), place_in))
        values.append(Value.of(str(len(entry.seeds)), float(len(entry.seeds))))
        status = "disputed" if entry.disputed else entry.state
        values += [Value.of(entry.those("source")), Value.of(status)]
        known = [("Source", tuple(entry.runs["source"])), *properties(runs_of(entry.runs))]
        title = f"{dataset} / {model} / {entry.attack} / {entry.defense}; poisoning ratio {ratio}"
        title += f"; {data}; selection {rule}" if rule else ""
        names = (f"entry-{place}", *names_of([*entry.runs["key"]], place))
        if entry.disputed:  # two entries have its keys
            names = names[:1]
        seeds = tuple(f"Seed {seed}" for seed in entry.runs["seed"])
        flagged = status != "ok"
        entries.append(Line(names, title, values, seeds, known, flagged))
    caption = "All entries, scores in percent; press a defense for where it comes from"
    return listing(caption, titles, entries, _marks(found), ascending=("ASR", "Rank"))
