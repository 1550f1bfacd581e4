"""Write the table of `docs/reliability.md`: `python measurements/reliability.py`, about 6 min.

Runs the tests that attack the benchmark on purpose. Such a test records three properties
(pytest's `record_property`): "what" was tried, how often ("tried"), and how often something was
lost or wrong afterwards ("lost", which a test that passes has asserted to be 0). Tests of the same
"what" are added up.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- from measurements/reliability.py -->", "<!-- end of the table -->"


def collect(report: Path) -> dict[str, tuple[int, int, set[str]]]:
    """By what was tried: how often, how often something was lost, and the files of the tests."""
    found: dict[str, tuple[int, int, set[str]]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        values = {p.get("name"): p.get("value") for p in case.iter("property")}
        if "what" not in values:
            continue
        if case.find("failure") is not None or case.find("error") is not None:
            raise SystemExit(f"{case.get('name')} fails: mend it first, the table stays as it was")
        what = str(values["what"])
        tried, lost, files = found.get(what, (0, 0, set()))
        file = f"tests/{str(case.get('classname')).removeprefix('tests.').replace('.', '/')}.py"
        counts = tried + int(str(values["tried"])), lost + int(str(values["lost"]))
        found[what] = (*counts, files | {file})
    return found


def table(found: dict[str, tuple[int, int, set[str]]]) -> str:
    lines = ["| tried | times | lost or wrong | test |", "| --- | ---: | ---: | --- |"]
    for what, (tried, lost, files) in sorted(found.items()):
        names = ", ".join(f"[`{file}`](../{file})" for file in sorted(files))
        lines.append(f"| {what} | {tried:,} | {lost} | {names} |")
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-m", "", f"--junitxml={report}", *sys.argv[1:]]
        subprocess.run(command, cwd=ROOT, check=True)
        text = table(collect(report))
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
