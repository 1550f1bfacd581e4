"""What the notes of figures say: what is drawn, over how many seeds, and who is left out and why.

Text alone, so that a report can print it without drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pandas import DataFrame

from sau_bench.benchmark.report.tables import ABSENT, cell_states
from sau_bench.benchmark.rows import UNDEFENDED

BETTER = {"acc": "ACC (%), higher is better", "asr": "ASR (%), lower is better"}
"""What axes say."""
ROUND = "A round is one model that a defense yields, for most after an epoch of training"


def setting(rows: DataFrame) -> str:
    """Dataset, network, seeds, and how spread over seeds is drawn."""
    first, seeds = rows.iloc[0], sorted(rows["seed"].unique())
    where = f"{first['dataset']}, {first['model']}"
    if len(seeds) == 1:
        return f"{where}; seed {seeds[0]:g}"
    return f"{where}; mean ± standard deviation over n = {len(seeds)} seeds"


def scatter_note(selected: DataFrame, beyond: str) -> str:
    states = cell_states(selected)
    return _sentences(
        setting(selected), "Best is bottom right", _hollow(states), beyond,
        _named("Without a mark", states.isin(ABSENT)),
    )  # fmt: skip


def bars_note(selected: DataFrame, beyond: str) -> str:
    line = "Lines lead from the undefended model (dashed) to the defended one"
    return _sentences(setting(selected), line, _hollow(cell_states(selected)), beyond)


def der_note(selected: DataFrame) -> str:
    states = cell_states(selected).drop(columns=UNDEFENDED)
    return _sentences(
        setting(selected), "DER in percent, higher (darker) is better; 50: nothing gained",
        _named("† diverged", states == "diverged"),
        _named("§ fewer seeds", states == "fewer seeds"),
    )  # fmt: skip


def curves_note(rows: DataFrame, points: DataFrame, beyond: str) -> str:
    """`points`: attacks x defenses, the number of scored rounds."""
    marks = "Marks are scored rounds, at 0 the undefended model (dashed)"
    return _sentences(
        setting(rows), ROUND, marks, beyond,
        _named("Scored once, a mark without a line", points == 1),
        _named("No curve", points == 0, _why_none(rows, points)),
    )  # fmt: skip


def beyond_note(metric: str, values: Mapping[str, Iterable[float]]) -> str:
    """What lies below an axis and is drawn at its edge; values: percent, by name of the method."""
    texts = [f"{name} {min(low):.1f}" for name, low in values.items()]
    return f"Below the axis, drawn at its edge, lowest {metric}: {', '.join(texts)}" * bool(texts)


def _why_none(rows: DataFrame, points: DataFrame) -> dict[str, str]:
    """Why defenses have no curve, where that is known of all their runs."""
    why = {}
    for defense in points.columns[(points == 0).any()]:
        runs = rows[rows["defense"] == defense]
        if runs["kind"].eq("candidates").any():
            why[str(defense)] = "yields candidates, no rounds"
        else:
            reasons = sorted(set(runs["status"]) & {*ABSENT})
            why[str(defense)] = ", ".join(reasons)
    return why


def _hollow(states: DataFrame) -> str:
    unsound = states.isin(["diverged", "collapsed"])
    return "Hollow: diverged or collapsed" * bool(unsound.any(axis=None))


def _named(what: str, there: DataFrame, why: Mapping[str, str] | None = None) -> str:
    """`what: FT (LF, SIG), EP`: the cells of attacks x defenses that are marked, "" without any."""
    parts = []
    for defense in there.columns[there.any()]:
        attacks = [] if there[defense].all() else list(there.index[there[defense]])
        reason = [(why or {}).get(defense, "")]
        inside = "; ".join(text for text in [", ".join(attacks), *reason] if text)
        parts.append(f"{defense} ({inside})" if inside else str(defense))
    return f"{what}: {', '.join(parts)}" if parts else ""


def _sentences(*parts: str) -> str:
    return " ".join(f"{part}." for part in parts if part)
