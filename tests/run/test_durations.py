"""Durations and orders: hints that are learned, and what is made of them."""

import pytest
from fakes import Fake, key, steps

from benchmark.cache.description import Description
from benchmark.cache.step import Step
from benchmark.cache.store import Store
from benchmark.cli.run import forced, preview, seconds
from benchmark.errors import InputError
from benchmark.grid.plan import make_plan
from benchmark.run.durations import (
    PASS,
    SPEED,
    Durations,
    chains,
    learned,
    row_order,
    wall_time,
    weight,
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
    return Step("k", "job", Description(canonical), **more)


def guess(canonical):
    return weight(Description(canonical))


def learn(durations, canonical, seconds, *device):
    durations.learn(Description(canonical), seconds, *device)


def test_a_guess_grows_with_epochs_and_with_the_data_they_pass_over():
    assert guess(victim(epochs=100)) > 5 * guess(victim(epochs=10))
    assert guess(victim(epochs=100)) > 5 * guess(defense(epochs=100))
    both = {"plugin": "nad", "teacher": {"epochs": 100}, "recipe": {"epochs": 100}}
    assert guess(defense("nad") | {"defense": both}) > guess(defense("nad"))
    assert guess({"job": "asset", "asset": {"asset": "X"}}) > 0


def test_the_nearest_kind_of_finished_job_tells_the_duration():
    durations = Durations("GPU")
    slow, fast = defense("sau"), defense("ft")
    assert durations.seconds(step(slow)) == guess(slow)
    assert not durations.is_measured(step(slow))
    learn(durations, slow, 500, "GPU")
    learn(durations, slow, 700, "GPU")
    learn(durations, fast, 50, "GPU")
    assert durations.seconds(step(slow)) == pytest.approx(600)
    assert durations.seconds(step(fast)) == pytest.approx(50)
    # Another attack: the same place. Another model: the same method. Both are measurements.
    for other in ({"attack": "wanet"}, {"model": "vgg"}, {"dataset": "gtsrb"}):
        assert durations.seconds(step(defense("sau", **other))) == pytest.approx(600)
        assert durations.is_measured(step(defense("sau", **other)))
    # Another method: of the same dataset, scaled by its own epochs, and no measurement.
    unknown = durations.seconds(step(defense("nad")))
    assert unknown == pytest.approx((600 * 2 + 50) / 3)
    assert durations.seconds(step(defense("nad", epochs=300))) == pytest.approx(
        unknown * guess(defense(epochs=300)) / guess(defense(epochs=100))
    )
    assert not durations.is_measured(step(defense("nad")))
    # Another kind of job: by the whole machine's speed.
    assert durations.seconds(step(victim())) == pytest.approx(
        guess(victim()) * (1250 / 3) / guess(slow)
    )


def test_measurements_of_this_kind_of_device_come_first():
    durations = Durations("2-thread AMD EPYC")
    learn(durations, victim(), 9000, "1-thread AMD EPYC")
    learn(durations, victim(), 100, "NVIDIA H200")
    assert durations.seconds(step(victim())) == pytest.approx(9000)
    # Of another kind of device, in proportion to what both usually do.
    other = Durations("NVIDIA A100")
    learn(other, victim(), 9000, "1-thread AMD EPYC")
    expected = 9000 * SPEED["cpu"] / SPEED["gpu"]
    assert other.seconds(step(victim())) == pytest.approx(expected)
    assert not other.is_measured(step(victim()))


def test_a_guess_counts_the_operations_at_the_speed_of_the_device():
    small, usual = step(victim(), flops=1e12), step(victim())
    for device, kind in (("NVIDIA H200", "gpu"), ("2-thread AMD EPYC", "cpu")):
        durations = Durations(device)
        assert durations.seconds(usual) == pytest.approx(20 + 100 * PASS / SPEED[kind])
        assert durations.seconds(small) == pytest.approx(20 + 100 * 1e12 / SPEED[kind])
        assert not durations.is_measured(small)


def test_durations_are_read_from_a_cache_and_what_cannot_be_read_is_skipped(tmp_path):
    store = Store(tmp_path)
    jobs = {"a" * 24: [{"seconds": 10}, {"seconds": 30, "device": "gpu"}], "b" * 24: [{}]}
    for name, rows in jobs.items():
        with store.draft(name) as draft:
            draft.write_json("job.json", victim())
            draft.write_json("rows.json", [{"device": "gpu"} | row for row in rows])
    (tmp_path / ("c" * 24)).mkdir()
    assert learned(store, "gpu").seconds(step(victim())) == pytest.approx(30)


@pytest.fixture
def two_rows():
    """Keys by name, the plan, and durations: all guesses, 20 s and 10 s for each epoch."""
    a, b = Fake("a", None, 8), Fake("b")
    jobs = [a, Fake("a1", a, 3), Fake("a2", a), b, Fake("b1", b)]
    return {job.name: key(job) for job in jobs}, steps(jobs), Durations()


def test_chains_are_the_longest_work_below_a_job(two_rows):
    names, plan, durations = two_rows
    found = chains(plan, plan, durations)
    assert {name: found[k] for name, k in names.items()} == {
        "a": 150, "a1": 50, "a2": 20, "b": 40, "b1": 20,
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
    assert wall_time(plan, {}, plan, 1, durations) == 210
    assert wall_time(plan, {}, plan, 2, durations) == 150
    assert wall_time(plan, {}, plan, 9, durations) == 150
    done = {names["b"], names["b1"]}
    left = set(plan) - done - {names["a"]}
    assert wall_time(plan, {names["a"]: 30.0}, left, 2, durations) == 120
    assert wall_time(plan, {names["a"]: 300.0}, left, 2, durations) == 50
    assert wall_time(plan, {}, [], 2, durations) == 0


def test_a_preview_says_what_rests_on_no_measurement(two_rows):
    names, plan, _ = two_rows
    durations = Durations("gpu")
    text = preview(plan, {names["a"]}, durations, 2)
    assert text.splitlines()[0] == "5 jobs: 4 to run, 1 cached"
    assert "1 min 10 s on 2 slots; a guess for 4 of them" not in text
    assert "about 0.03 device hours, 1 min 0 s on 2 slots; a guess for 4 of them" in text
    durations.learn(plan[names["a1"]].description, 50)
    assert "a guess for 3 of them" in preview(plan, {names["a"]}, durations, 2)
    for one in plan.values():
        durations.learn(one.description, 3600)
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
    from benchmark.grid.config import Config
    from benchmark.grid.grid import make_grid
    from benchmark.jobs.flops import training_flops
    from benchmark.jobs.job import AssetJob

    config = Config(
        datasets=["digits"],
        models=["small_cnn:4"],
        attacks=["badnets", "lf"],
        defenses=["ft", "nad"],
    )
    jobs = make_grid(config).jobs()
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
        return {str(plan[name]).split(" / ", 1)[1] for name in forced(config, force)}

    lf = {"Small CNN (width 4) / LF / 0", "Small CNN (width 4) / UniversalPattern / 0"}
    lf_defended = {f"Small CNN (width 4) / LF / 0 / {name}" for name in ("FT", "NAD")}
    assert named() == set()
    assert named("attack=lf") == lf | lf_defended
    assert len(named("defense=ft")) == 2 and named("attack=lf", "defense=FT") < lf_defended
    assert named("attack=lf,defense=FT") == named("attack=lf", "defense=FT")
    with pytest.raises(InputError, match=r"--force: no attack 'lff'.*did you mean 'lf'"):
        forced(config, ["attack=lff"])
