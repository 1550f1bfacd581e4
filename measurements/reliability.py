"""Write the table of `docs/reliability.md`: `python measurements/reliability.py`, about 3 min.

Runs the tests that attack the benchmark on purpose. They carry the mark `tried(what, times)`: what
is tried, and how often one of these tests tries it. Tests of the same "what" are added up. A test
that fails has lost something: then the table stays as it was.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by measurements/reliability.py -->", "<!-- end of the table -->"


class Tried:
    """A pytest plugin that keeps marked tests alone and adds up what those that pass have tried."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.files: dict[str, set[str]] = {}
        self._marked: dict[str, tuple[str, int]] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        marks = {item: item.get_closest_marker("tried") for item in items}
        items[:] = [item for item in items if marks[item]]
        for item in items:
            mark = marks[item]
            assert mark is not None
            what, times = mark.args
            self._marked[item.nodeid] = what, times
            self.files.setdefault(what, set()).add(item.nodeid.partition("::")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            what, times = self._marked[report.nodeid]
            self.times[what] += times


def table(tried: Tried) -> str:
    lines = ["| tried | times | lost or wrong | test |", "| --- | ---: | ---: | --- |"]
    for what, times in sorted(tried.times.items()):
        files = ", ".join(f"[`{file}`](../{file})" for file in sorted(tried.files[what]))
        lines.append(f"| {what} | {times:,} | 0 | {files} |")
    return "\n".join(lines)


def main() -> int:
    tried = Tried()
    # In one process, where the plugin sees every test.
    options = ["-m", "", "-n", "0", "--rootdir", str(ROOT)]
    status = pytest.main([*options, str(ROOT / "tests")], plugins=[tried])
    if status:
        print("a test fails: the table stays as it was", file=sys.stderr)
        return int(status)
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(tried)}\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
