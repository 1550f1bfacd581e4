"""What runs when, and what becomes of jobs that go wrong, with jobs that train nothing."""

import errno
import threading
from itertools import pairwise

import pytest
from fakes import Fake, Threads, Unsendable, attempts, claimed, drive, key, row, steps, trace

from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.clean import sweep
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.run.durations import Durations
from sau_bench.benchmark.run.failures import NotStarted
from sau_bench.benchmark.run.local import LocalPool


@pytest.fixture
def threads():
    pool = Threads(2)
    yield pool
    pool.close()


def record(root, job):
    return Store(root / "cache").failure(key(job))


def test_a_raising_job_fails_alone_and_blocks_its_dependants(tmp_path, threads):
    good, bad = Fake("good"), Fake("raise")
    first = Fake("first", bad)
    jobs = [bad, first, Fake("second", first), good, Fake("third", good)]
    states, details = trace(jobs, tmp_path, threads)
    assert states == {
        "raise": ["started", "failed"],
        "first": ["blocked"],
        "second": ["blocked"],
        "good": ["started", "done"],
        "third": ["started", "done"],
    }
    assert details == dict.fromkeys(("raise", "first", "second"), "ValueError: raise is bad")
    failure = record(tmp_path, bad)
    assert (failure["kind"], failure["error"]) == ("error", "ValueError: raise is bad")
    assert "in two lines" in failure["traceback"] and "in act" in failure["traceback"]
    assert attempts(tmp_path, "raise") == 1 and attempts(tmp_path, "first") == 0
    assert record(tmp_path, first) is None


def test_a_second_run_repeats_neither_results_nor_failures(tmp_path, threads):
    good, bad = Fake("good"), Fake("raise")
    jobs = [good, bad, Fake("raise too", good), Fake("fine", good), Fake("blocked", bad)]
    trace(jobs, tmp_path, threads)
    states, details = trace(jobs, tmp_path, threads)
    assert states == {
        "good": ["cached"],
        "fine": ["cached"],
        "raise": ["failed"],
        "raise too": ["failed"],
        "blocked": ["blocked"],
    }
    assert details["raise"] == "earlier: ValueError: raise is bad"
    assert details["blocked"] == "ValueError: raise is bad"
    assert {attempts(tmp_path, name) for name in ("good", "fine", "raise", "raise too")} == {1}
    Store(tmp_path / "cache").forget_failure(key(bad))
    states, _ = trace(jobs, tmp_path, threads)
    assert states["raise"] == ["started", "failed"] and states["raise too"] == ["failed"]
    assert attempts(tmp_path, "raise") == 2


def test_what_is_missing_is_run_and_nothing_else(tmp_path, threads):
    good = Fake("good")
    trace([good], tmp_path, threads)
    states, _ = trace([good, Fake("new", good), Fake("other")], tmp_path, threads)
    assert states == {
        "good": ["cached"],
        "new": ["started", "done"],
        "other": ["started", "done"],
    }
    assert attempts(tmp_path, "good") == 1


def nothing(job, root):
    """Work that publishes nothing."""


def test_a_worker_that_publishes_nothing_has_failed(tmp_path, threads):
    states, details = trace([Fake("idle")], tmp_path, threads, work=nothing)
    assert states == {"idle": ["started", "failed"]}
    assert details == {"idle": "the worker published nothing"}


def test_a_need_may_lie_in_the_cache_only_but_must_lie_somewhere(tmp_path, threads):
    absent = Fake("absent")
    waits = Fake("waits", absent)
    plan = {key(waits): steps([waits])[key(waits)]}
    with pytest.raises(RuntimeError, match=f"waits needs {key(absent)}"):
        drive(plan, tmp_path, threads)
    trace([absent], tmp_path, threads)
    assert trace(plan, tmp_path, threads)[0] == {"waits": ["started", "done"]}


@pytest.mark.parametrize("slots", [1, 3])
def test_never_more_jobs_in_flight_than_slots(tmp_path, slots):
    now, most, ticks, pool = [], [], [], Threads(slots)
    full = threading.Barrier(slots)

    class Watched(Threads):
        def submit(self, function, /, *arguments):
            def call():
                now.append(1)
                most.append(len(now))
                full.wait(20)  # all slots are busy at once, or this breaks
                result = function(*arguments)
                now.pop()
                return result

            return super().submit(call)

    pool = Watched(slots)
    jobs = [Fake(f"job {i}") for i in range(6)]
    outcomes, _ = drive(jobs, tmp_path, pool, tick=lambda live: ticks.append(len(live)))
    pool.close()
    assert max(most) == slots and max(ticks) == slots
    assert sum(outcome.state == "done" for outcome in outcomes) == 6


def test_a_job_starts_when_its_need_is_done_whatever_else_still_runs(tmp_path, threads):
    need, late = Fake("need"), Fake("nap 0.5")
    outcomes, _ = drive([late, need, Fake("dependant", need)], tmp_path, threads)
    events = [(str(outcome.step), outcome.state) for outcome in outcomes]
    assert events.index(("dependant", "done")) < events.index(("nap 0.5", "done"))


class Fixed(Durations):
    """Expectations that nothing changes."""

    def learn(self, description, seconds, device=None):
        pass


def starts(outcomes):
    return [str(outcome.step) for outcome in outcomes if outcome.state == "started"]


def test_the_longest_chain_starts_first_then_the_order_given(tmp_path):
    # Two seconds each, and ten more for each epoch, as long as nothing is measured.
    short, long, alone = Fake("short", None, 1), Fake("long", None, 5), Fake("alone", None, 3)
    jobs = [Fake("s", short), short, alone, Fake("l1", long), Fake("l2", long, 4), Fake("also")]
    pool = Threads(1)
    outcomes, _ = drive(jobs, tmp_path, pool, durations=Fixed())
    pool.close()
    assert starts(outcomes) == ["long", "l2", "alone", "short", "s", "l1", "also"]


def test_a_budget_completes_rows_cheapest_first_and_starts_nothing_too_long(tmp_path):
    cheap, dear, done = Fake("cheap", None, 2), Fake("dear", None, 9), Fake("done", None, 20)
    jobs = [dear, Fake("d1", dear), cheap, Fake("c1", cheap), Fake("c2", cheap), done]
    jobs.append(Fake("rest", done))
    pool = Threads(1)
    drive([done], tmp_path, pool)
    # 2 s are missing of one row, 26 s of the next; "dear" alone would take 92 s.
    outcomes, driver = drive(jobs, tmp_path, pool, budget=50, durations=Fixed())
    pool.close()
    assert starts(outcomes) == ["rest", "cheap", "c1", "c2"]
    assert [str(step) for step in driver.left()] == ["dear", "d1"]
    assert not driver.stopped


def test_no_job_starts_that_ends_after_the_budget_and_running_jobs_end(tmp_path, threads):
    class Learned(Fixed):
        def seconds(self, step):
            return 0.2

    jobs = [Fake(f"nap 0.{i}") for i in (30, 31, 32, 33)]
    outcomes, driver = drive(jobs, tmp_path, threads, budget=0.3, durations=Learned())
    assert starts(outcomes) == ["nap 0.30", "nap 0.31"]
    assert [outcome.state for outcome in outcomes].count("done") == 2
    assert len(driver.left()) == 2


def test_a_full_disk_stops_the_run_and_is_no_jobs_fault(tmp_path, threads):
    jobs = [Fake("full disk"), Fake("nap 1.5"), Fake("never"), Fake("nor")]
    outcomes, driver = drive(jobs, tmp_path, threads)
    assert starts(outcomes) == ["full disk", "nap 1.5"]
    assert [(str(o.step), o.state) for o in outcomes if o.state != "started"] == [
        ("nap 1.5", "done")
    ]
    assert "No space left" in driver.stopped
    assert {str(step) for step in driver.left()} == {"full disk", "never", "nor"}
    assert not list((tmp_path / "cache").glob("failures/*"))
    assert not claimed(tmp_path / "cache")


@pytest.mark.parametrize("call", ["take", "record_failure"])
def test_a_disk_that_is_full_for_the_driver_stops_the_run_as_well(
    tmp_path, threads, monkeypatch, call
):
    def full(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    owner = (
        "sau_bench.benchmark.cache.claims.Claims"
        if call == "take"
        else "sau_bench.benchmark.cache.store.Store"
    )
    monkeypatch.setattr(f"{owner}.{call}", full)
    _, driver = drive([Fake("raise"), Fake("other")], tmp_path, threads)
    assert "quota" in driver.stopped and driver.left()


def test_a_job_that_cannot_be_sent_or_read_is_told_from_a_lost_worker(tmp_path, threads):
    jobs = [Unsendable("unsendable"), Unsendable("unreadable"), Fake("good")]
    states, _ = trace(jobs, tmp_path, threads)
    assert states == {
        "unsendable": ["failed"],
        "unreadable": ["started", "failed"],
        "good": ["started", "done"],
    }
    failures = [record(tmp_path, job) for job in jobs[:2]]
    assert {failure["kind"] for failure in failures} == {"unpicklable"}
    assert failures[0]["error"] == "TypeError: this does not travel"
    assert failures[1]["error"] == "ImportError: unreadable: no such module here"


@pytest.fixture(scope="module", params=["slots", "dask"])
def grid(request, tmp_path_factory):
    """Real workers, two at a time: (states, details, root, rows by job name)."""
    root = tmp_path_factory.mktemp("grid")
    always, bad = Fake("die always"), Fake("raise")
    jobs = [Fake("nap 0.2"), Fake("nap 0.21")]  # one on each slot
    jobs += [always, Fake("blocked", always), Fake("die once"), Fake("kill once"), bad]
    jobs += [Fake("oom once"), Fake("oom always"), Fake("hang"), Unsendable("unreadable")]
    jobs += [Fake(f"good {i}") for i in range(4)]
    if request.param == "slots":
        pool = LocalPool(["5", "7"], limit=4)
    else:
        scheduler = request.getfixturevalue("cluster").file  # skips where Dask is not installed
        from sau_bench.benchmark.run.dask import DaskPool

        pool = DaskPool(str(scheduler), limit=4)
        while pool.slots() < 2:
            pool.wait([], 0.1)
    try:
        states, details = trace(jobs, root, pool)
    finally:
        pool.close()
    store = Store(root / "cache")
    rows = {job.name: store.rows(key(job))[0] for job in jobs if key(job) in store}
    return states, details, root, rows


def test_a_dead_worker_costs_only_its_own_job_which_is_tried_again(grid):
    states, details, root, _ = grid
    for name in ("die once", "kill once"):
        assert states[name] == ["started", "lost", "started", "done"]
        assert attempts(root, name) == 2
    assert details["die once"] == "the worker exited with status 9, try 2"
    assert "killed by SIGKILL (perhaps by the system, short of memory)" in details["kill once"]
    for i in range(4):
        assert states[f"good {i}"] == ["started", "done"]
        assert attempts(root, f"good {i}") == 1
    assert states["raise"] == ["started", "failed"] and attempts(root, "raise") == 1


def test_a_job_that_always_kills_its_worker_fails_after_three_tries(grid):
    states, details, root, _ = grid
    assert states["die always"] == ["started", "lost", "started", "lost", "started", "failed"]
    assert attempts(root, "die always") == 3
    assert states["blocked"] == ["blocked"]
    assert details["blocked"] == details["die always"] == "the worker exited with status 9"
    failure = record(root, Fake("die always"))
    assert failure["kind"] == "worker lost" and failure["log"] == "die always begins"


def test_a_job_short_of_memory_is_tried_once_more_alone_in_a_fresh_worker(grid):
    states, details, root, rows = grid
    assert states["oom once"] == ["started", "lost", "started", "done"]
    assert "alone on its device" in details["oom once"]
    retry = rows["oom once"]
    earlier = [row for row in rows.values() if row["span"][1] <= retry["span"][0]]
    assert earlier and retry["pid"] not in {row["pid"] for row in earlier}
    assert states["oom always"] == ["started", "lost", "started", "failed"]
    assert attempts(root, "oom always") == 2
    assert record(root, Fake("oom always"))["kind"] == "out of memory"


def test_a_job_over_the_time_limit_is_killed_and_not_tried_again(grid):
    states, details, root, _ = grid
    assert states["hang"] == ["started", "failed"] and attempts(root, "hang") == 1
    assert details["hang"] == "ran for longer than the limit of 4 s"
    failure = record(root, Fake("hang"))
    assert failure["kind"] == "time limit" and failure["log"] == "hang begins"


def test_what_a_worker_cannot_read_is_no_lost_worker(grid):
    states, details, root, _ = grid
    assert states["unreadable"] == ["started", "failed"]
    assert record(root, Unsendable("unreadable"))["kind"] == "unpicklable"
    assert "no such module here" in details["unreadable"]


def test_workers_see_only_their_slots_device_and_one_job_at_a_time(grid):
    rows = grid[3]
    good = {f"good {i}" for i in range(4)}
    assert set(rows) == {"nap 0.2", "nap 0.21", "die once", "kill once", "oom once"} | good
    assert {row["device"] for row in rows.values()} == {"5", "7"}
    for device in ("5", "7"):
        spans = sorted(row["span"] for row in rows.values() if row["device"] == device)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    devices = {}
    for seen in rows.values():
        devices.setdefault(seen["pid"], set()).add(seen["device"])
    assert all(len(seen) == 1 for seen in devices.values())


def test_nothing_is_left_behind(grid):
    cache = grid[2] / "cache"
    with Claims(cache) as claims:
        sweep(Store(cache), claims)
    assert not list((cache / "drafts").iterdir()) and not claimed(cache)


def test_workers_that_never_come_up_end_the_run_and_blame_no_job(tmp_path):
    pool = LocalPool(["", ""], imports=["no_such_module"])
    with pytest.raises(NotStarted, match="no_such_module"):
        drive([Fake("good"), Fake("other"), Fake("more")], tmp_path, pool)
    pool.close()
    assert not list((tmp_path / "cache").glob("failures/*"))


def test_a_slot_whose_workers_never_come_up_is_left_alone(tmp_path):
    class OneBroken(LocalPool):
        def _environment(self, slot):
            # An interpreter without its standard library ends at once.
            return super()._environment(slot) | ({} if slot else {"PYTHONHOME": "/nowhere"})

    pool = OneBroken(["0", "1"])
    jobs = [Fake(f"good {i}") for i in range(6)]
    states, details = trace(jobs, tmp_path, pool)
    pool.close()
    assert all(seen[-1] == "done" for seen in states.values())
    assert sum(seen.count("lost") for seen in states.values()) == 3
    assert all("could not start: it exited with status 1" in text for text in details.values())
    assert {row(tmp_path, job)["device"] for job in jobs} == {"1"}


def test_jobs_of_one_device_wait_for_the_one_that_has_to_be_alone(tmp_path):
    pool = LocalPool(["0", "0", "1", "1"])
    jobs = [Fake(f"nap 0.2{i}") for i in range(8)] + [Fake("oom once", None, 1)]
    plan = steps(jobs)
    drive(plan, tmp_path, pool)
    pool.close()
    lone = row(tmp_path, jobs[-1])
    assert attempts(tmp_path, "oom once") == 2
    others = [row(tmp_path, job) for job in jobs[:-1]]
    assert {seen["device"] for seen in others} == {"0", "1"}
    for seen in others:
        if seen["device"] == lone["device"]:
            start, end = seen["span"]
            assert end <= lone["span"][0] or lone["span"][1] <= start
