"""The configs of the paper's tables: how many jobs they have, by hand, and that they run at all."""

from pathlib import Path

import pandas as pd
import pytest

from sau_bench.benchmark.cli.main import main
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.grid import filtered, jobs_of, make_tables

CONFIGS = Path(__file__).parents[2] / "configs"

# Assets: a clean model and LF's pattern, and SSBA's encoder, for each dataset, network and seed.
LF, SSBA = 2, 1
# Jobs of a victim with n defenses: 1 + n. The eight defenses of the tables: FT, ANP, FP, NC, NAD,
# EP, i-BAU, SAU; without batch norm six of them.
COUNTS = {
    "quickstart": 2 * (1 + 2),
    "cifar10_cpu": 7 * (1 + 9) + LF + SSBA,  # its clean model is that of LF
    "sau_learning_rate_cpu": 4 * (1 + 2) + LF,
    "odd_cells_cpu/anp": 2 * (1 + 1),
    "odd_cells_cpu/ep": 1 * (1 + 5),
    "odd_cells_cpu/ft": 1 * (1 + 2),
    "odd_cells_cpu/i_bau": 2 * (1 + 3) + SSBA,
    "odd_cells_cpu/nad": 2 * (1 + 2) + SSBA,
    "odd_cells_cpu/nad_epochs": 1 * (1 + 1),
    "odd_cells_cpu/nc": 1 * (1 + 1) + LF,
    "odd_cells_cpu/rate": 3 * (1 + 4) + LF,
    "odd_cells_cpu/sau": 1 * (1 + 4),
    # BadNets is in five of them; Input-Aware, Blended, SSBA and LF, with what they need, in two.
    "odd_cells_cpu": 40 + 3 * (1 + 4) + LF - 4 - 1 - 1 - (1 + SSBA) - (1 + LF),
    "paper/table3": 7 * (1 + 8) + LF + SSBA,
    "paper/table4": 6 * (1 + 8) + LF + SSBA,
    "paper/table5": (6 * 5 + 1) * (1 + 1) + LF + SSBA,
    "paper/table6": 5 * (3 * (1 + 5) + LF),
    "paper/table7": 7 * (1 + 8) + LF + SSBA + 6 * (1 + 8) + LF + SSBA,
    "paper/table7/cifar10": 7 * (1 + 8) + LF + SSBA,
    "paper/table7/tiny_imagenet": 6 * (1 + 8) + LF + SSBA,
    "paper/table9": 4 * (1 + 1) + SSBA,
    "paper/table10": 4 * (1 + 1) + SSBA,
    "paper/table11": 2 * (1 * (1 + 1) + SSBA),
    "paper/table12": 5 * (1 + 2),
    "paper/table13": 2 * (3 * (1 + 3) + SSBA),
    "paper/table15": 3 * (1 + 1),
    "paper/table16": 7 * (1 + 6) + LF + SSBA,
    "paper/table17": 6 * (1 + 6) + LF + SSBA,
    "paper/table18": 6 * (1 + 8) + LF + SSBA,
    "paper/table19": 6 * (1 + 6) + LF + SSBA,
    "paper/table20": 7 * (1 + 8) + LF + SSBA,
    "paper/table21": 6 * (1 + 8) + LF + SSBA,
    "paper/table22": 7 * (1 + 1 + 4 * 2) + LF + SSBA,
    "paper/table23": 3 * (1 + 5) + LF,
    "paper/table24": 6 * (1 + 2) + LF + SSBA,
    "paper/table25": 6 * (1 + 8) + LF + SSBA,
    "paper/table26": 3 * (1 + 2 * 2),
    "paper/table27": 3 * (1 + 2 * 2),
    "paper/table28": 3 * (1 + 2 * 2),
    "paper/figure1": 1 * (1 + 1),
    "paper/figure3": 5 * (3 * (1 + 5) + LF),
    "paper/figure4": 1 * (1 + 1),
    "paper/figure5": 3 * (1 + 1) + LF,
    # LF's clean model is one, its pattern is another for each amplitude.
    "paper/open_bound": 3 * 4 * (1 + 4) + 1 + 4,
    # EP gets no clean data and runs once.
    "paper/open_clean_data": 3 * (1 + 7 * 4 + 1) + LF,
    "paper/open_targets": (3 + 3 * 2) * (1 + 4) + LF,
    "paper/open_adaptive": 4 * (1 + 4),
}
# What each of these shares with tables before it in the union: assets, and whole cells.
SHARED = {
    "table5": 7 * 2 + LF + SSBA,  # each attack at 10 %, and SAU: table 3
    "table6": 3 + LF,  # victims of seed 0: table 4; with probes, defenses are jobs of their own
    # Victims and assets: tables 3 and 4; every round scored, defenses are jobs of their own.
    "table7": 7 + LF + SSBA + 6 + LF + SSBA,
    "table7/cifar10": 7 * (1 + 8) + LF + SSBA,
    "table7/tiny_imagenet": 6 * (1 + 8) + LF + SSBA,
    "table9": SSBA,
    "table10": 4 * 2 + SSBA,
    "table11": 2 * 2 + 2 * SSBA,
    "table12": 1 + 2,  # a white patch: table 3
    "table13": 2 * 3 * 2 + 2 * SSBA,
    "table16": SSBA,  # no network takes part in it
    "table17": SSBA,
    "table19": SSBA,
    "table20": LF + SSBA,
    "table21": LF + SSBA,
    "table22": 7 * 2 + LF + SSBA,
    "table23": 3 * 2 + LF,
    "table24": LF + SSBA,
    "table25": LF + SSBA,
    "table27": 3 * (1 + 1) + 1,  # table 3; and SAU on BadNets at 1 %: table 23
    "figure1": 1,  # its victim: table 4
    "figure3": 5 * (3 * (1 + 5) + LF),
    "figure4": 1,
    "figure5": 3 + LF,
    # At the default strength the victims, FT, i-BAU, SAU of table 3; its clean model and pattern.
    "open_bound": 3 * (1 + 3) + LF,
    # At 5 % all of table 3's, EP included; SAU at 1 % is in table 23.
    "open_clean_data": 3 * (1 + 8) + 3 + LF,
    # BadNets for class 0; Blended and LF with BadNets, undefended and under ANP and SAU: table 24.
    "open_targets": (1 + 4) + 2 * (1 + 2) + LF,
    "open_adaptive": 1 + 3,  # BadNets, FT, i-BAU, SAU
}
COUNTS["paper"] = sum(
    count - SHARED.get(name.removeprefix("paper/"), 0)
    for name, count in COUNTS.items()
    if name.startswith("paper/")
)
FILES = {
    name: file
    for file in sorted(CONFIGS.rglob("*.yaml"))
    if (name := file.relative_to(CONFIGS).with_suffix("").as_posix()) != "paper/common"
}


def test_every_config_is_counted():
    assert set(COUNTS) == set(FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_dry_run_says_how_many_jobs_there_are(name, tmp_path, capsys):
    argv = ["run", str(FILES[name]), "--dry-run", "--device", "cpu", "--results", str(tmp_path)]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith(f"{COUNTS[name]} jobs: {COUNTS[name]} to run")
    assert not any(tmp_path.iterdir())


def smoke(name, results, *more):
    argv = ["run", str(FILES[name]), "--smoke", "--device", "cpu", "--results", str(results)]
    return main([*argv, *more])


def test_a_smoke_run_takes_the_same_path_into_a_folder_of_its_own(tmp_path, capsys):
    real = tmp_path / "paper" / "table23" / "rows.csv"
    real.parent.mkdir(parents=True)
    real.write_text("real rows\n")
    assert smoke("paper/table23", tmp_path, "--only", "attack=badnets") == 0
    assert real.read_text() == "real rows\n" and not (tmp_path / "cache").exists()
    rows = pd.read_csv(tmp_path / "smoke" / "paper" / "table23" / "rows.csv")
    done = rows[rows["status"] != "missing"]
    # Of a few images 5 % is none, so that all shares become one.
    assert done["defense"].unique().tolist() == ["No Defense", "SAU"]
    assert set(done["dataset"]) == {"CIFAR-10"} and set(done["attack"]) == {"BadNets"}
    assert set(done["n_clean"]) == {20}
    assert (tmp_path / "smoke" / "paper" / "table23" / "report.md").is_file()


# By tables and a filter: every defense on every network, and every attack, with sweeps and `when`.
SMOKE = {
    "attack=badnets,seed=0": [
        *("cifar10_cpu", "quickstart", "paper/figure4"),
        *(f"paper/table{number}" for number in (3, 4, 6, 12, 13, 16, 26, 28)),
    ],
    "defense=sau": [
        "sau_learning_rate_cpu",
        *(f"paper/{name}" for name in ("table3", "table15", "table24", "open_adaptive")),
    ],
    "attack=badnets,defense=sau": [f"paper/table{number}" for number in (18, 23, 25, 27)],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_kind_of_cell_runs_at_smoke_size(tmp_path):
    """Each plugin that any config names, on each network, and each way of writing a config.

    Left out, since they take too long for a test: other attacks under other defenses, networks and
    seeds. `run configs/paper.yaml --smoke` runs them all.
    """
    ran = set()
    for number, (only, names) in enumerate(SMOKE.items()):
        union = tmp_path / f"union{number}.yaml"
        union.write_text(f"include: {[str(FILES[name]) for name in names]}\n")
        # One cache for all of them: a job that several have runs once.
        argv = ["run", str(union), "--smoke", "--device", "cpu", "--results", str(tmp_path)]
        assert main([*argv, "--only", only]) == 0
        for name in names:
            rows = pd.read_csv(tmp_path / "smoke" / name / "rows.csv", keep_default_na=False)
            done = rows[rows["status"] != "missing"]
            assert len(done) and not done["status"].isin(["failed", "blocked", "unusable"]).any()
        tables = [table.grid for table in make_tables(union)]
        ran |= plugins(jobs_of(filtered(tables, [only])))
    assert ran == plugins(
        job
        for name in FILES
        if name != "paper"
        for job in jobs_of(table.grid for table in make_tables(FILES[name]))
    )


def plugins(jobs):
    return {type(plugin) for job in jobs for plugin in job.plugins.values()}


def test_a_union_runs_a_shared_job_once_and_filters_across_its_tables(tmp_path):
    union = tmp_path / "union.yaml"
    files = [str(FILES[f"paper/table{number}"]) for number in (10, 23, 27)]
    union.write_text(f"include: {files}\n")
    grids = [table.grid for table in make_tables(union)]
    keys = [job.key for job in jobs_of(grids)]
    # BadNets with SAU at 5 % is in all three, at 1 % in the last two; Input-Aware in two.
    assert len(keys) == len(set(keys)) == 9 + 20 + 15 - 2 * 2 - 1 - 2
    one = filtered(grids, ["attack=badnets,defense=rnp"])
    assert [len(list(grid.cells())) for grid in one] == [0, 0, 3]
    both = filtered(grids, ["attack=badnets", "defense=SAU"])
    assert [len(list(grid.cells())) for grid in both] == [2, 2, 2]
    with pytest.raises(
        InputError, match=r"no attack 'badnet' in this grid.*did you mean 'badnets'"
    ):
        filtered(grids, ["attack=badnet"])
