"""Looking after the cache: what is listed, what is found to be damaged, what is deleted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sau_bench.benchmark import shipped
from sau_bench.benchmark.cache.checksums import CHECKSUMS, faults
from sau_bench.benchmark.cache.claims import Claims
from sau_bench.benchmark.cache.clean import delete, jobs, titles, unused
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.cli.cache import _size, references
from sau_bench.benchmark.cli.results import claim_rows
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, DefenseJob

ROOT = Path(__file__).parents[2]
BASE = {"datasets": ["digits"], "models": ["small_cnn"], "recipe": {"epochs": 1}}
FIRST = BASE | {"attacks": ["badnets", "lf"], "defenses": ["ft"]}
SECOND = BASE | {"attacks": ["lf", {"badnets": {"ratio": 0.05}}], "defenses": ["ft", "sau"]}
DAY = 24 * 3600


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Two grids that share an asset, a victim and a defended one."""
    folder = tmp_path_factory.mktemp("configs")
    for name, content in (("first", FIRST), ("second", SECOND)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / "first.yaml", folder / "second.yaml"


@pytest.fixture(scope="module")
def grids(configs):
    return [make_grid(read(config)) for config in configs]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def publish(store, *done):
    for job in done:
        with store.draft(job.key) as draft:
            draft.write_json("job.json", job.canonical())
            if not isinstance(job, DefenseJob):
                draft.write_tensors("tensors.safetensors", {"x": torch.arange(99.0)})
            draft.write_json("rows.json", [{"acc": 0.5}])


def leave_draft(store, key):
    """A draft as a process that was killed leaves it."""
    folder = store.drafts / f"{key}.0123456789abcdef"
    folder.mkdir(parents=True)
    return folder


def cache(store, *argv):
    return cli.main(["cache", argv[0], "--cache", str(store.root), *map(str, argv[1:])])


def test_jobs_of_two_configs_share_what_they_need(configs, grids):
    users = references([configs[0], configs[1], configs[0]])
    assert set(users) == {job.key for grid in grids for job in grid.jobs()}
    shared = {name for name, used in users.items() if used == ["first", "second"]}
    assert shared == {j.key for j in grids[0].jobs()} & {j.key for j in grids[1].jobs()}
    kinds = {type(job) for job in grids[0].jobs() if job.key in shared}
    assert kinds == {AssetJob, AttackJob, DefenseJob}


def test_ls_says_what_each_folder_is_and_who_uses_it(store, configs, grids, capsys):
    publish(store, *grids[0].jobs(), *grids[1].jobs())
    assert cache(store, "ls", configs[1]) == 0
    head, *lines, total, spare = capsys.readouterr().out.splitlines()
    assert head.split() == ["KEY", "SIZE", "DATE", "USED", "BY", "JOB"]
    told = {line[head.index("JOB") :]: line for line in lines}
    lf = "digits / small_cnn / lf / 0"
    asset = "digits / small_cnn / UniversalPattern / 0"
    clean = "digits / small_cnn / CleanModel / 0"
    assert list(told) == sorted(told) and len(told) == 10
    assert {clean, asset, lf, f"{lf} / ft", f"{lf} / sau"} <= set(told)
    for ratio, used in (("0.1", "-"), ("0.05", "second")):
        for end in ("", " / ft"):
            line = told[f"digits / small_cnn / badnets / 0{end} (attack.ratio={ratio})"]
            assert line[head.index("USED") : head.index("JOB")].strip() == used
    sizes = {entry.key: entry.size for entry in jobs(store)}
    for line in lines:
        name, size, unit = line.split()[:3]
        assert f"{size} {unit}" == _size(sizes[name])
        assert sizes[name] == sum(f.stat().st_size for f in (store.root / name).iterdir())
    assert total.startswith(f"{len(lines)} jobs, {_size(sum(sizes.values()))}; 0 unfinished, 0 ")
    assert spare.startswith("2 of them, ") and spare.endswith(f"used by none of {configs[1]}")


def test_titles_of_folders_without_a_sound_description(store, grids):
    publish(store, *grids[0].jobs())
    odd = ["", "[]", '{"victim": 3}', '{"dataset": "x", "seed": 1}', '{"defense": {"plugim": 2}}']
    for entry, text in zip(list(jobs(store)), odd, strict=False):
        (entry.path / "job.json").write_text(text)
    assert titles(list(jobs(store)))[:5] == ["unknown", "unknown", "unknown", "x / 1", "?"]


def test_an_empty_cache_is_listed_verified_and_cleaned(store, configs, capsys):
    store.drafts.mkdir(parents=True)
    for action in (["ls", configs[0]], ["verify"], ["gc", configs[0], "--delete"]):
        assert cache(store, *action) == 0
    assert "KEY" not in capsys.readouterr().out


def test_verify_accepts_what_was_published(store, grids, capsys):
    publish(store, *grids[0].jobs())
    before = {file: file.read_bytes() for file in store.root.rglob("*") if file.is_file()}
    assert cache(store, "verify") == 0
    assert capsys.readouterr().out == "6 jobs: 0 bad, 6 sound\n"
    assert before == {file: file.read_bytes() for file in store.root.rglob("*") if file.is_file()}


def test_verify_names_each_bad_folder_on_one_line(store, grids, capsys):
    publish(store, *grids[0].jobs())
    cut, flipped, moved, *sound = list(jobs(store))
    (cut.path / "rows.json").unlink()
    content = bytearray((flipped.path / "job.json").read_bytes())
    content[40] ^= 4
    (flipped.path / "job.json").write_bytes(content)
    moved.path.rename(store.root / ("f" * 24))
    (sound[0].path / CHECKSUMS).unlink()
    assert cache(store, "verify") == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{cut.path}: rows.json is missing",
        f"{flipped.path}: job.json changed",
        f"{sound[0].path}: {CHECKSUMS} is missing",
        f"{store.root / ('f' * 24)}: job.json describes another job",
        "6 jobs: 4 bad, 2 sound",
    ]
    assert err.count("\n") == 1 and "run again" in err


def test_what_is_no_file_is_a_fault(store, grids):
    publish(store, grids[0].victims[0])
    folder = store.root / grids[0].victims[0].key
    (folder / "log.jsonl").mkdir()
    assert faults(folder) == ["log.jsonl was not published"]
    (folder / "rows.json").unlink()
    (folder / "rows.json").mkdir()
    assert faults(folder) == ["log.jsonl was not published", "rows.json is no file"]


def test_gc_lists_first_and_deletes_only_when_told(store, configs, grids, capsys):
    publish(store, *grids[0].jobs(), *grids[1].jobs())
    before = set(store.keys())
    spare = before - {job.key for job in grids[0].jobs()}
    assert cache(store, "gc", configs[0]) == 0
    out = capsys.readouterr().out
    assert set(store.keys()) == before and "not deleted; --delete deletes them" in out
    assert {name for name in before if name in out} == spare and len(spare) == 4
    freed = sum(entry.size for entry in jobs(store) if entry.key in spare)
    assert f"4 unused by {configs[0]}, {_size(freed)}" in out
    assert cache(store, "gc", configs[0], "--delete") == 0
    assert "deleted" in capsys.readouterr().out
    assert set(store.keys()) == before - spare
    assert cache(store, "gc", *configs, "--delete") == 0
    assert set(store.keys()) == before - spare and cache(store, "verify") == 0


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_gc_keeps_exactly_what_is_needed(tmp_path_factory, grids, data):
    store = Store(tmp_path_factory.mktemp("cache"))
    every = {job.key: job for grid in grids for job in grid.jobs()}
    there = data.draw(st.sets(st.sampled_from(sorted(every))))
    failed = data.draw(st.sets(st.sampled_from(sorted(every))))
    chosen = data.draw(st.sets(st.sampled_from((0, 1)), min_size=1))
    publish(store, *(every[name] for name in there))
    for name in failed:
        store.record_failure(name, {"error": "E: why"})
        store.checkpoint(name).write_bytes(b"weights")
    needed = {job.key for number in chosen for job in grids[number].jobs()}
    with Claims(store.root) as claims:
        for entry in unused(store, claims, needed):
            delete(store, entry)
    assert set(store.keys()) == there & needed
    assert {file.stem for file in store.failures.glob("*")} == failed & needed
    assert {file.stem for file in store.checkpoints.glob("*")} == failed & needed
    assert not list(store.drafts.glob("*"))


def test_gc_tells_failures_by_their_error(store, configs, capsys):
    store.drafts.mkdir(parents=True)
    store.record_failure("e" * 24, {"error": "E: why"})
    store.record_failure("f" * 24, {"error": "E: why", "traceback": "line\nline"})
    assert cache(store, "gc", configs[0], "--delete") == 0
    first, second = capsys.readouterr().out.splitlines()[1:3]
    assert first.startswith(f"failure  {'e' * 24}") and first.endswith("  E: why")
    assert second.endswith("  E: why") and not list(store.failures.iterdir())


def test_gc_never_touches_what_a_living_process_has_claimed(store, configs, grids, capsys):
    used, other = grids[0].victims[0].key, grids[1].jobs()[-1].key
    publish(store, grids[1].jobs()[-1])
    mine, left = leave_draft(store, used), leave_draft(store, "e" * 24)
    with Claims(store.root) as driver:
        # A driver between two jobs has claimed a job that is not needed; its grid may use more.
        assert driver.take(used) and driver.take(other)
        assert cache(store, "gc", configs[0], "--delete") == 2
        error = capsys.readouterr().err
        assert other in error and f"process {os.getpid()} on " in error and error.count("\n") == 1
        assert set(store.drafts.iterdir()) == {mine, left} and store.keys() == [other]
        driver.release(other)
        assert cache(store, "gc", configs[0], "--delete") == 0
        assert set(store.drafts.iterdir()) == {mine} and store.keys() == []
    assert cache(store, "gc", configs[0], "--delete") == 0
    assert not list(store.drafts.iterdir())


def test_gc_deletes_nothing_of_a_grid_whose_driver_is_between_two_jobs(
    store, configs, grids, capsys
):
    publish(store, *grids[0].jobs(), *grids[1].jobs())
    before = store.keys()
    with Claims(store.root) as driver:
        driver.announce(job.key for job in grids[1].jobs())
        assert cache(store, "gc", configs[0], "--delete") == 2
        error = capsys.readouterr().err
        assert f"process {os.getpid()} on " in error and error.count("\n") == 1
        assert store.keys() == before
        assert cache(store, "gc", *configs, "--delete") == 0
    assert store.keys() == before
    assert cache(store, "gc", configs[0], "--delete") == 0
    assert len(store.keys()) == len(before) - 4


def test_configs_of_both_suffixes_and_in_subfolders_count(
    store, configs, grids, monkeypatch, capsys
):
    publish(store, *grids[0].jobs(), *grids[1].jobs())
    before = store.keys()
    place = store.root.parent / "configs" / "mine"
    place.mkdir(parents=True)
    (place.parent / "first.yml").write_bytes(configs[0].read_bytes())
    (place / "second.yaml").write_bytes(configs[1].read_bytes())
    monkeypatch.chdir(store.root.parent)
    monkeypatch.setattr(shipped, "CONFIGS", store.root)
    assert cache(store, "gc") == 0
    out = capsys.readouterr().out
    assert out.startswith("0 unused by the configs in configs/ and those that are shipped, 0 B: ")
    assert cache(store, "gc", "configs", "--delete") == 0 and store.keys() == before
    assert cache(store, "gc", "configs/mine", "--delete") == 0
    assert set(store.keys()) == {job.key for job in grids[1].jobs()}


def test_shipped_configs_count_where_there_is_no_folder_of_configs(
    store, configs, grids, monkeypatch, capsys
):
    publish(store, *grids[0].jobs(), *grids[1].jobs())
    (store.root.parent / "elsewhere").mkdir()
    monkeypatch.chdir(store.root.parent / "elsewhere")
    monkeypatch.setattr(shipped, "CONFIGS", configs[0].parent)
    assert cache(store, "ls") == 0
    head, *lines, _, spare = capsys.readouterr().out.splitlines()
    used = {line[head.index("USED") : head.index("JOB")].strip() for line in lines}
    assert used == {"first", "second", "first,second"} and spare.startswith("0 of them, ")


def test_results_whose_config_does_not_count_are_named(store, configs, grids, monkeypatch, capsys):
    root = store.root.parent
    publish(store, *grids[0].jobs())
    (root / "mine.yaml").write_bytes(configs[0].read_bytes())
    claim_rows(root / "mine", root / "mine.yaml")
    claim_rows(root / "deep" / "first", configs[0])
    (root / "smoke" / "cache").mkdir(parents=True)
    claim_rows(root / "smoke" / "mine", root / "mine.yaml")
    monkeypatch.chdir(root)
    for action in ("ls", "gc"):
        assert cache(store, action, *configs) == 0
        *_, told = capsys.readouterr().out.splitlines()
        assert told == "not among them: mine.yaml, which mine has results of"
    assert cache(store, "gc", *configs, "mine.yaml") == 0
    assert "not among them" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [None, "attacks: [", yaml.safe_dump(FIRST | {"attacks": ["badnet"]})]
)
def test_gc_deletes_nothing_when_a_config_cannot_be_read(store, configs, grids, capsys, content):
    publish(store, *grids[0].jobs())
    before = store.keys()
    bad = store.root.parent / "bad.yaml"
    if content is not None:
        bad.write_text(content)
    assert cache(store, "gc", configs[1], bad, "--delete") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert store.keys() == before


def test_nothing_is_deleted_unless_it_is_said_what_stays(store, grids, capsys, monkeypatch):
    publish(store, *grids[0].jobs())
    monkeypatch.chdir(store.root)
    for argv, told in (
        (["--delete"], "--delete: name all configs whose jobs are to stay"),
        (["drafts", "--delete"], "no config in 'drafts', accepted: a folder of .yaml files"),
        (["no-such", "--delete"], "no config 'no-such'"),
    ):
        assert cache(store, "gc", *argv) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
        assert len(store.keys()) == 6


@pytest.mark.parametrize("action", ["ls", "verify", "gc"])
def test_a_folder_that_is_no_cache_stays_as_it_is(tmp_path, capsys, action):
    (tmp_path / ("a" * 24)).mkdir()
    for folder in (tmp_path, tmp_path / "none"):
        assert cli.main(["cache", action, "--cache", str(folder)]) == 2
        assert capsys.readouterr().err.startswith("error: no cache in ")
    assert [file.name for file in tmp_path.iterdir()] == ["a" * 24]


def test_verify_needs_no_torch(store, grids):
    publish(store, *grids[0].jobs())
    program = (
        "import sys; from sau_bench.benchmark.cli.main import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "cache", "verify", "--cache", str(store.root)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_499, "999.5 kB")),
        *((999_500, "1.0 MB"), (50_000_000, "50.0 MB"), (5_400_000_000_000, "5400.0 GB")),
    ],
)
def test_sizes_are_readable(count, text):
    assert _size(count) == text
