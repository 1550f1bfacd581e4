"""Durations and orders: hints that are learned, and what is made of them."""

from pathlib import Path

import pytest
from fakes import Fake, key, steps

from sau_bench.benchmark.cache.description import Description
from sau_bench.benchmark.cache.step import Step
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.cached import discarded
from sau_bench.benchmark.cli.options import seconds
from sau_bench.benchmark.cli.pools import preview
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.grid import filtered, make_grid
from sau_bench.benchmark.grid.plan import make_plan
from sau_bench.benchmark.jobs.flops import described_flops, training_flops
from sau_bench.benchmark.jobs.job import AssetJob
from sau_bench.benchmark.run.durations import (
    DOUBT,
    PASS,
    PRIORS,
    SPEED,
    Durations,
    Work,
    chains,
    learned,
    priors,
    row_order,
    wall_time,
)


def victim(dataset="cifar10", model="resnet", attack="badnets", epochs=100):
    return {
        "job": "attack",
        "dataset": {"plugin": dataset},
        "architecture": {"plugin": model},
        "attack": {"plugin": attack, "target": 0},
        "recipe": {"epochs": epochs},
    }


def defense(plugin="ft", epochs=100, **more):
    return {
        "job": "defense",
        "victim": victim(**more),
        "defense": {"plugin": plugin, "recipe": {"epochs": epochs}},
        "clean_ratio": 0.05,
    }


def step(canonical, **more):
    return Step(str(canonical) + str(more), "job", Description(canonical), **more)


def work(canonical, flops=0.0):
    return Work.of(Description(canonical), flops)


def guess(canonical):
    return work(canonical).seconds(SPEED["gpu"])


def learn(durations, canonical, seconds, *device, flops=0.0):
    durations.learn(work(canonical, flops), seconds, *device)


def test_a_guess_grows_with_epochs_and_with_the_data_they_pass_over():
    assert guess(victim(epochs=100)) > 5 * guess(victim(epochs=10))
    assert guess(victim(epochs=100)) > 5 * guess(defense(epochs=100))
    both = {"plugin": "nad", "teacher": {"epochs": 100}, "recipe": {"epochs": 100}}
    assert guess(defense("nad") | {"defense": both}) > guess(defense("nad"))
    rounds = {"plugin": "i_bau", "rounds": 5}
    assert guess(defense() | {"defense": rounds}) == guess(defense(epochs=5))
    drawn = {"plugin": "anp", "iterations": 1000, "batch_size": 100}
    assert guess(defense() | {"defense": drawn}) == guess(defense(epochs=40))
    assert guess({"job": "asset", "asset": {"asset": "X"}}) > 0


def test_what_has_most_in_common_with_a_job_tells_its_duration():
    durations = Durations("GPU")
    slow, fast = defense("sau"), defense("ft")
    assert durations.seconds(step(slow)) == guess(slow)
    assert not durations.is_measured(step(slow))
    learn(durations, slow, 500)
    learn(durations, slow, 700)
    learn(durations, fast, 50)
    assert durations.seconds(step(slow)) == pytest.approx(600)
    assert durations.seconds(step(fast)) == pytest.approx(50)
    # Another attack: the same place, a measurement. Another network or dataset: a guess.
    other = step(defense("sau", attack="wanet"))
    assert durations.seconds(other) == pytest.approx(600) and durations.is_measured(other)
    for changes in ({"model": "vgg"}, {"dataset": "gtsrb"}):
        other = step(defense("sau", **changes))
        assert durations.seconds(other) == pytest.approx(600) and not durations.is_measured(other)
    # Another method: as others on the dataset, by its epochs.
    unknown = durations.seconds(step(defense("nad")))
    assert unknown == pytest.approx((600 * 2 + 50) / 3)
    assert durations.seconds(step(defense("nad", epochs=300))) == pytest.approx(
        unknown * guess(defense(epochs=300)) / guess(defense(epochs=100))
    )
    # Another kind of job: by the whole machine's speed.
    assert durations.seconds(step(victim(epochs=10))) == pytest.approx(
        guess(victim(epochs=10)) * (1250 / 3) / guess(slow)
    )


def test_durations_scale_with_the_arithmetic():
    durations = Durations("GPU")
    learn(durations, victim(), 1000, flops=PASS)
    small, large = (step(victim(), flops=factor * PASS) for factor in (0.5, 4))
    assert durations.seconds(small) == pytest.approx(500, rel=0.01)
    assert durations.seconds(large) == pytest.approx(4000, rel=0.01)


def test_a_job_of_a_second_says_nothing_of_one_of_an_hour():
    """After the quickstart a grid of hours was announced as minutes."""
    durations = Durations("2-thread AMD EPYC")
    digits = victim(dataset="digits", model="small_cnn", epochs=15)
    learn(durations, digits, 4, flops=1e10)
    real = step(victim(), flops=PASS)
    assert durations.seconds(real) == real_guess(real) and not durations.is_measured(real)
    learn(durations, victim(epochs=30), 30 * 400, flops=PASS)
    assert durations.seconds(real) == pytest.approx(100 * 400, rel=0.01)


def real_guess(step):
    return Work.of(step.description, step.flops).seconds(SPEED["cpu"])


def test_measurements_of_this_kind_of_device_come_first():
    durations = Durations("2-thread AMD EPYC")
    learn(durations, victim(), 9000, "1-thread AMD EPYC")
    learn(durations, victim(), 100, "NVIDIA H200")
    assert durations.seconds(step(victim())) == pytest.approx(9000)
    assert durations.is_measured(step(victim()))
    # Of another kind of device, in proportion to what both usually do.
    other = Durations("NVIDIA A100")
    learn(other, victim(), 9000, "1-thread AMD EPYC")
    expected = 9000 * guess(victim()) / work(victim()).seconds(SPEED["cpu"])
    assert other.seconds(step(victim())) == pytest.approx(expected)
    assert not other.is_measured(step(victim()))


def test_guesses_have_a_range_until_they_are_measured():
    durations = Durations("GPU")
    jobs = [step(victim()), step(defense())]
    learn(durations, victim(), 900)
    least, most = durations.range(jobs)
    seconds = durations.seconds(jobs[1])
    assert not durations.is_measured(jobs[1])
    assert least == pytest.approx(900 + seconds / DOUBT)
    assert most == pytest.approx(900 + seconds * DOUBT)
    learn(durations, defense(), 70)
    assert durations.range(jobs) == pytest.approx((970, 970))


def test_durations_are_read_from_a_cache_and_what_cannot_be_read_is_skipped(tmp_path):
    store = Store(tmp_path)
    jobs = {"a" * 24: [{"seconds": 10}, {"seconds": 30, "device": "gpu"}], "b" * 24: [{}]}
    for name, rows in jobs.items():
        with store.draft(name) as draft:
            draft.write_json("job.json", victim())
            draft.write_json("rows.json", [{"device": "gpu"} | row for row in rows])
    (tmp_path / ("c" * 24)).mkdir()
    assert learned(store, "gpu").seconds(step(victim())) == pytest.approx(30)


def test_the_work_of_a_finished_job_is_known_from_its_description():
    config = Config(
        datasets=["digits", "tiny_imagenet"], models=["small_cnn:4"], attacks=["badnets"],
        defenses=["ft"],
    )  # fmt: skip
    jobs = make_grid(config).jobs()
    assert [described_flops(job.canonical()) for job in jobs] == list(map(training_flops, jobs))
    assert described_flops({"job": "attack", "dataset": {"plugin": "gone"}}) == 0


def test_estimates_of_the_committed_grid(tmp_path, monkeypatch):
    """From an empty cache within a factor of 2, with half of the jobs finished within 20 %."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "measurements")
    import durations

    durations.write(tmp_path / "priors.csv")
    assert (tmp_path / "priors.csv").read_text() == PRIORS.read_text()
    device = "1-thread AMD EPYC"
    elsewhere = [
        entry for name in durations.committed() if name != durations.GRID
        for entry in durations.works(name)
    ]  # fmt: skip
    half = len(durations.works(durations.GRID)) // 2
    for prior in ([], elsewhere, priors()):
        expected, took = durations.estimate(prior, device)
        assert 0.5 < expected / took < 2
    for prior in (elsewhere, priors()):
        expected, took = durations.estimate(prior, device, half)
        assert 0.8 < expected / took < 1.2


@pytest.fixture
def two_rows():
    """Keys by name, the plan, and durations: all guesses, 2 s and 10 s for each epoch."""
    a, b = Fake("a", None, 8), Fake("b")
    jobs = [a, Fake("a1", a, 3), Fake("a2", a), b, Fake("b1", b)]
    return {job.name: key(job) for job in jobs}, steps(jobs), Durations()


def test_chains_are_the_longest_work_below_a_job(two_rows):
    names, plan, durations = two_rows
    found = chains(plan, plan, durations)
    assert {name: found[k] for name, k in names.items()} == {
        "a": 114, "a1": 32, "a2": 2, "b": 4, "b1": 2,
    }  # fmt: skip
    assert names["a"] not in chains(plan, set(plan) - {names["a"]}, durations)


def test_rows_are_ranked_by_what_is_left_of_them(two_rows):
    names, plan, durations = two_rows
    found = row_order(plan, plan, durations)
    assert {name: found[k] for name, k in names.items()} == {
        "a": 1, "a1": 1, "a2": 1, "b": 0, "b1": 0,
    }  # fmt: skip
    left = set(plan) - {names["a"], names["a1"]}
    assert row_order(plan, left, durations)[names["a2"]] == 0


def test_what_several_rows_need_ranks_with_the_first_of_them():
    shared = Step("s", "asset", Description({"recipe": {"epochs": 5}}))
    cheap = Step("c", "victim", Description({}), needs=("s",), row="c")
    dear = Step("d", "victim", Description({"recipe": {"epochs": 9}}), needs=("s",), row="d")
    plan = {step.key: step for step in (shared, dear, cheap)}
    assert row_order(plan, plan, Durations()) == {"s": 0, "c": 0, "d": 1}


def test_wall_time_on_slots(two_rows):
    names, plan, durations = two_rows
    assert wall_time(plan, {}, plan, 1, durations) == 120
    assert wall_time(plan, {}, plan, 2, durations) == 114
    assert wall_time(plan, {}, plan, 9, durations) == 114
    done = {names["b"], names["b1"]}
    left = set(plan) - done - {names["a"]}
    assert wall_time(plan, {names["a"]: 30.0}, left, 2, durations) == 84
    assert wall_time(plan, {names["a"]: 300.0}, left, 2, durations) == 32
    assert wall_time(plan, {}, [], 2, durations) == 0


def test_a_preview_says_what_rests_on_no_measurement(two_rows):
    names, plan, _ = two_rows
    durations = Durations("gpu")
    text = preview(plan, {names["a"]}, durations, 2, device="2-thread X")
    first, second = text.splitlines()
    assert first == "5 jobs: 4 to run, 1 cached"
    assert second.startswith("about 0.01 device hours, 32 s on 2 slots of 2-thread X; a guess")
    assert second.endswith("0.00 to 0.03 device hours")
    durations.learn(Work.of(plan[names["a1"]].description, 0), 50)
    assert "a guess for 3 of them" in preview(plan, {names["a"]}, durations, 2)
    for one in plan.values():
        durations.learn(Work.of(one.description, 0), 3600)
    assert "guess" not in preview(plan, {names["a"]}, durations, 2)
    assert preview(plan, plan, durations, 2) == "5 jobs: 0 to run, 5 cached"


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1m5s", 65)]
)
def test_lengths_of_time(text, expected):
    assert seconds(text, "--budget") == expected


@pytest.mark.parametrize("text", ["", "2", "h", "0m", "-1h", "1.5h", "30m1h", "two hours"])
def test_bad_lengths_of_time_name_the_flag_and_what_is_accepted(text):
    with pytest.raises(InputError, match=r"--budget is .* accepted: such as 90s, 30m, 2h or 1h30m"):
        seconds(text, "--budget")


def test_a_plan_of_a_real_grid_and_what_force_names_of_it():
    config = Config(
        datasets=["digits"],
        models=["small_cnn:4"],
        attacks=["badnets", "lf"],
        defenses=["ft", "nad"],
    )
    grid = make_grid(config)
    jobs = grid.jobs()
    plan = make_plan(jobs, training_flops)
    assert list(plan) == [job.key for job in jobs]
    for job in jobs:
        made = plan[job.key]
        assert made.job is job and made.description.canonical == job.canonical()
        assert made.needs == tuple(need.key for need in job.needs)
        row = getattr(job, "victim", job).key
        assert made.row == ("" if isinstance(job, AssetJob) else row)
        # 3x3 convolutions at 32, 16 and 8 pixels, and the head; two operations a product.
        products = 9 * (3 * 4 * 32**2 + 4 * 8 * 16**2 + 8 * 16 * 8**2) + 16 * 10
        assert made.flops == 3 * 1437 * 2 * products

    def named(*force):
        keys = discarded(filtered([grid], force, "--force"), force)
        return {str(plan[key]).split(" / ", 1)[1] for key in keys}

    lf = {"Small CNN (width 4) / LF / 0", "Small CNN (width 4) / UniversalPattern / 0"}
    lf_defended = {f"Small CNN (width 4) / LF / 0 / {name}" for name in ("FT", "NAD")}
    assert named() == set()
    assert named("attack=lf") == lf | lf_defended
    assert len(named("defense=ft")) == 2 and named("attack=lf", "defense=FT") < lf_defended
    assert named("attack=lf,defense=FT") == named("attack=lf", "defense=FT")
    with pytest.raises(InputError, match=r"--force: no attack 'lff'.*did you mean 'lf'"):
        filtered([grid], ["attack=lff"], "--force")
