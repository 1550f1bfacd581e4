"""What defenses cost: seconds and memory of a run, and seconds until a defense takes effect."""

from __future__ import annotations

import numpy as np
from pandas import DataFrame, Series

from sau_bench.benchmark.report import tables
from sau_bench.benchmark.report.published import Published
from sau_bench.benchmark.report.render import (
    MARKS,
    Table,
    attack_titles,
    caption,
    footnotes,
    seed_counts,
)
from sau_bench.benchmark.rows import UNDEFENDED

EFFECTIVE_ASR = 0.05
"""The ASR below which a defense has taken effect."""
_PAPER_ACC = "85 % (CIFAR-10) or 45 % (Tiny ImageNet)"


def cost_table(rows: DataFrame) -> Table | None:
    """Mean wall time and largest peak memory of each defense, for one (dataset, model) pair.

    Of several runs with the standard deviation of their times. A run costs what its last step cost,
    whichever step a rule selects. Runs that diverged stopped early and are left out, like those
    that never started. None where no run is left.
    """
    runs = rows[rows["kind"] != "victim"].sort_values("step").groupby("key", sort=False)
    last = runs.tail(1).assign(peak=lambda end: end["key"].map(runs["peak_mib"].max())).sort_index()
    last = last[last["status"].isin([*tables.COUNTED, "collapsed"])]
    if last.empty:
        return None
    by_defense = last.groupby("defense", sort=False)
    numbers = DataFrame({"Runs": by_defense.size(), "Seconds": by_defense["seconds"].mean()})
    numbers["Seconds std"] = by_defense["seconds"].std()
    numbers["Peak MiB"] = by_defense["peak"].max()
    numbers = numbers.rename_axis("Defense").reset_index()
    text = numbers.astype({"Runs": str}).map(lambda v: v if isinstance(v, str) else f"{v:.2f}")
    spread = text.pop("Seconds std")
    text["Seconds"] += (" ± " + spread).where(numbers["Seconds std"].notna(), "")
    what = "Cost of one run: mean seconds ± standard deviation over runs, largest peak memory in "
    what += "MiB, scoring excluded"
    devices = ", ".join(last["device"].unique())
    what += f". {rows['dataset'].iloc[0]}, {rows['model'].iloc[0]}; {devices}."
    return Table(what, text, numbers, DataFrame())


def effect_table(rows: DataFrame, selected: DataFrame, effective_acc: float | None) -> Table | None:
    """Seconds until each defense took effect, for one (dataset, model) pair (the paper's table 7).

    Effect: ASR below 5 % at an ACC above `effective_acc`, a share, or above nine tenths of the
    victim's where that is None. A defense that never gets there, or whose selected candidate does
    not, counts with the seconds of its whole run: a lower bound, which is marked by ">" and is not
    ranked. A mean or an Average that such a run enters is one, too. None where no run is sound.
    """
    times = _times(rows, selected, effective_acc)
    if times.empty:
        return None
    by_cell = times.groupby(["attack", "defense"], sort=False)
    attacks, (_, *defenses) = tables.labels_of(selected)
    seconds, spread = (
        by_cell["seconds"].agg(how).unstack().reindex(index=attacks, columns=defenses)
        for how in ("mean", "std")
    )
    bound = by_cell["reached"].all().unstack().reindex_like(seconds).eq(False)
    numbers = by_cell["seconds"].count().unstack().reindex_like(seconds).fillna(0).astype(int)
    states, averaged = tables.cell_states(selected)[defenses], tables.averaged_attacks(selected)
    complete = states.loc[averaged].isin(tables.SOUND).all()
    by_seed = times[times["attack"].isin(averaged)].pivot_table(
        "seconds", ["defense", "seed"], "attack"
    )
    averages = by_seed.mean(axis=1, skipna=False).groupby("defense").std()
    spread.loc["Average"] = averages.reindex(defenses).where(complete)
    seconds.loc["Average"] = seconds.loc[averaged].mean(skipna=False).where(complete)
    bound.loc["Average"] = bound.loc[averaged].any() & seconds.loc["Average"].notna()
    marks = states.map(lambda state: MARKS.get(state, "")).reindex_like(seconds).fillna("")
    seeds = seed_counts(selected, numbers)
    text = bound.map({True: ">", False: ""}.get) + seconds.map("{:.1f}".format)
    text += spread.map(lambda std: "" if np.isnan(std) else f" ± {std:.1f}") + seeds + marks
    text = text.where(seconds.notna(), marks.replace("", "-"))
    level = "nine tenths of the victim's" if effective_acc is None else f"{100 * effective_acc:g} %"
    what = f"Seconds until ASR is below {100 * EFFECTIVE_ASR:g} % at an ACC above {level}; "
    what += "> never, the seconds of the whole run, or a mean of such: a lower bound"
    ranked = seconds.mask(bound).loc[[*averaged, "Average"]]
    ranks = tables.rank(ranked.reindex(seconds.index), "asr").reset_index(drop=True)
    text.insert(0, "Attack", [*attack_titles(selected).values(), "Average"])
    plain = seconds.copy()
    if selected["seed"].nunique() > 1:
        whole = by_seed.notna().all(axis=1).groupby("defense").sum()
        shown = seconds.loc["Average"].notna().to_numpy()
        numbers.loc["Average"] = whole.reindex(defenses).where(shown).fillna(0)
        plain = plain.join([spread.add_suffix(" std"), numbers.astype("Int64").add_suffix(" n")])
    plain = plain.rename_axis("attack").reset_index()
    plain["lower bounds"] = ["; ".join(bound.columns[line]) for line in bound.to_numpy()]
    frames = text.reset_index(drop=True), plain, ranks
    return Table(caption(selected, what), *frames, footnotes(selected))


def published_times(effect: Table, selected: DataFrame, published: Published) -> Table | None:
    """The Average of `effect`, made by `effect_table`, beside table 7 of the paper.

    Times depend on the machine, so both are given relative to SAU's, too. None where no run is of a
    dataset, network and poisoning ratio of that table.
    """
    names = published.timed(selected)
    if not names:
        return None
    (average,) = effect.numbers[effect.numbers["attack"] == "Average"].to_dict("records")
    bounds = str(average["lower bounds"]).split("; ")
    ours = {label: float(average[label]) for label in names if label in average}
    theirs = {label: seconds for label, (_, seconds) in names.items() if label in ours}
    frame = DataFrame({"Seconds": ours, "published": theirs}).rename_axis("Defense")
    (base,) = [label for label, (name, _) in names.items() if name == "SAU"][:1] or [""]
    for column in ("Seconds", "published"):
        frame[f"{column} / SAU's"] = frame[column] / frame[column].get(base, np.nan)
    bound = Series(frame.index.isin(bounds), index=frame.index).map({True: ">", False: ""})
    text = frame.map(lambda value: "-" if np.isnan(value) else f"{value:.2f}")
    text["Seconds"] = (bound + text["Seconds"]).where(frame["Seconds"].notna(), "-")
    numbers = frame.assign(**{"lower bound": frame.index.isin(bounds)})
    attacks = len(tables.averaged_attacks(selected))
    what = f"Table 7 of the SAU paper (appendix B.1): seconds until effect, Average over {attacks} "
    what += "attacks, beside the published one (RTX 4090), and both divided by that of SAU; the "
    what += f"criterion is that of the table above, the paper's an ACC above {_PAPER_ACC}"
    frames = text.reset_index(), numbers.reset_index(), DataFrame()
    kept = selected[selected["defense"].isin([UNDEFENDED, *frame.index])]
    return Table(caption(kept, what), *frames)


def _times(rows: DataFrame, selected: DataFrame, effective_acc: float | None) -> DataFrame:
    """Seconds until effect, or of the whole run, and which it is, of the runs that count."""
    runs = selected[(selected["kind"] != "victim") & selected["status"].isin(tables.COUNTED)]
    counted = tables.counted(runs)
    some = counted.groupby([runs["attack"], runs["defense"]]).transform("any")
    victims = selected[selected["kind"] == "victim"].set_index("key")["acc"]
    by_key = dict(iter(rows.sort_values("step").groupby("key", sort=False)))
    times = []
    for _, chosen in runs[counted | ~some].iterrows():
        steps = by_key[chosen["key"]]
        nine_tenths = victims.get(chosen["victim"], np.nan) * (1 - tables.TOLERATED_LOSS)
        floor = nine_tenths if effective_acc is None else effective_acc
        if np.isnan(floor):
            continue
        # Of candidates only the selected one exists, once all have been made.
        scored = steps if chosen["kind"] == "rounds" else chosen.to_frame().T
        hits = scored[(scored["asr"] < EFFECTIVE_ASR) & (scored["acc"] > floor)]
        at_round = chosen["kind"] == "rounds" and len(hits)
        time = hits["seconds"].iloc[0] if at_round else steps["seconds"].max()
        labels = (chosen[axis] for axis in ("attack", "defense", "seed"))
        times.append((*labels, float(time), len(hits) > 0))
    return DataFrame(times, columns=["attack", "defense", "seed", "seconds", "reached"])
