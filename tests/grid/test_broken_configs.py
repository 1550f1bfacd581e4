"""Whatever is wrong with a config, it is refused in one line before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_configs import Case, bases, corpus

from sau_bench.benchmark.cli.main import main
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.grid import jobs_of, make_tables

LONGEST = 500
"""Characters of a message, without the folder of the config."""


def refusal(case: Case, folder: Path) -> str | None:
    """What is wrong with the way in which the case is refused; None if nothing is."""
    folder.mkdir()
    try:
        jobs_of(table.grid for table in make_tables(case.write(folder)))
    except InputError as error:
        told = str(error).replace(str(folder), "")
        wrong = "\n" in told or not 0 < len(told) < LONGEST
        return f"{case.name}: told as {told[:LONGEST]!r}" if wrong else None
    except BaseException as error:  # a traceback for the user, whatever its class
        return f"{case.name}: {type(error).__name__}"
    return f"{case.name}: accepted"


@pytest.mark.parametrize("name", bases())
def test_what_the_cases_are_made_from_is_accepted(name, tmp_path):
    (table,) = make_tables(Case(name, bases()[name]).write(tmp_path))
    assert table.grid.jobs()


@pytest.mark.parametrize(
    "every, least",
    [
        pytest.param(15, 1150, marks=pytest.mark.tried("broken configs", 1150)),
        pytest.param(1, 17238, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_a_broken_config_is_refused_in_one_line(every: int, least: int, tmp_path: Path) -> None:
    cases = corpus()[::every]
    assert len(cases) >= least
    wrong = [
        what for number, case in enumerate(cases) if (what := refusal(case, tmp_path / str(number)))
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:40])


@pytest.mark.parametrize("verb", ["run", "status"])
def test_the_command_line_refuses_with_status_2_and_creates_nothing(verb, tmp_path, capsys):
    cases = corpus()
    leaving = [case for case in cases if case.name.startswith("plugin: sys.exit")]
    assert leaving  # a plugin's file must not end the run with its own status
    for number, case in enumerate([*leaving, *cases[::1000]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        results = folder / "results"
        assert main([verb, str(case.write(folder)), "--results", str(results)]) == 2, case.name
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (case.name, err)
        assert not results.exists(), case.name
