"""What three users do, as they type it: the scripts beside this file, by an installed package."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("*.sh"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_user_gets_where_he_wants(installed, script, tmp_path):
    done = installed.run("bash", "-exo", "pipefail", script, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_there_is_a_script_for_each_user():
    assert [script.stem for script in SCRIPTS] == ["attack_and_dataset", "defense", "table"]
