"""`check` says what is wrong with a plugin, in plain words, and is not harmed by it."""

import os
import sys
import time

import pytest
import torch

from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.cli.check import BAD_INPUT, BROKEN, FINE, verdict
from sau_bench.benchmark.cli.new import text_of

HEAD = """
from dataclasses import dataclass
import os, sys, time
import torch
from sau_bench.benchmark.train import Recipe, fit
from sau_bench.defenses.base import Defense
"""
DEFENSE = '''
@dataclass(frozen=True, kw_only=True)
class Mine(Defense):
    """Mine. rounds: how many."""

    name = "Mine"
    rounds: int = 2

    def __call__(self, model, data):
        {body}
'''


def write(folder, body="yield model", head=HEAD, **replaced):
    text = head + DEFENSE.format(body=body)
    for old, new in replaced.items():
        assert WORDS[old] in text
        text = text.replace(WORDS[old], new)
    file = folder / "mine.py"
    file.write_text(text)
    return file


WORDS = {
    "dataclass": "@dataclass(frozen=True, kw_only=True)\n",
    "name": '    name = "Mine"\n',
    "field": "rounds: int = 2",
    "base": "from sau_bench.defenses.base",
    "module": "from sau_bench.benchmark.train",
    "colon": "):\n        ",
}
BROKEN_PLUGINS = {
    # what is wrong: (what is changed, what is said, a part of the line that is shown)
    "number": ({"body": "yield 0.5"}, "rounds are models: it yielded a number (0.5)", "yield 0.5"),
    "no yield": ({"body": "fit(model, data, Recipe())\n        return model"},
                 "`__call__` returned a model (Classifier) and yielded nothing; write `yield",
                 "def __call__"),
    "prints": ({"body": "print('round', 1); yield model"}, "it printed 'round'", "print("),
    "no annotation": ({"field": "rounds = 2"}, "write `rounds: int = 2`", "rounds = 2"),
    "no dataclass": ({"dataclass": ""}, "@dataclass(frozen=True, kw_only=True)", None),
    "not frozen": ({"dataclass": "@dataclass\n"}, "write @dataclass(frozen=True, kw_only=True)",
                   "@dataclass"),
    "no name": ({"name": ""}, 'lacks name (a class variable); write `name: ClassVar[str]', None),
    "plain base": ({"base": "from defenses.base"},
                   "write `from sau_bench.defenses.base import Defense`", None),
    "no module": ({"module": "from models_of_mine"}, "No module named 'models_of_mine'",
                  "from models_of_mine"),
    "plain module": ({"module": "from benchmark.train"}, "write sau_bench.benchmark.train",
                     "from benchmark.train"),
    "syntax": ({"colon": ")\n        "}, "SyntaxError", "def __call__"),
    "no default": ({"field": "rounds: int"}, "defaults and smoke values are valid", "@dataclass"),
    "raises": ({"body": "yield model\n        1 / 0"}, "it raised ZeroDivisionError", "1 / 0"),
    "exits": ({"body": "sys.exit(3)\n        yield model"}, "it raised SystemExit: 3", "sys.exit"),
    "exits at import": ({"head": HEAD + "sys.exit(3)\n"}, "SystemExit: 3", "sys.exit(3)"),
    "prints at import": ({"head": HEAD + "print('hello')\n"}, "it printed 'hello'", "print("),
    "changes state": ({"body": "torch.set_num_threads(7); yield model"},
                      "it left changed: torch's number of threads", "def __call__"),
    "changes state at import": ({"head": HEAD + "torch.set_default_dtype(torch.float64)\n"},
                                "it left changed: torch's default dtype", None),
    "seeds": ({"body": "torch.manual_seed(0); yield model"}, "it calls torch.manual_seed",
              "torch.manual_seed"),
    "no plugin": ({}, "defines no plugin; accepted: one class derived from Attack", None),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BROKEN_PLUGINS)
def test_what_is_wrong_is_said_with_its_line(wrong, tmp_path, capsys):
    changes, told, line = BROKEN_PLUGINS[wrong]
    if wrong == "no plugin":
        file = tmp_path / "mine.py"
        file.write_text("x = 1\n")
    else:
        file = write(tmp_path, **changes)
    before = torch.get_num_threads(), torch.get_default_dtype()
    status, lines = verdict(str(file), None)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before
    assert capsys.readouterr() == ("", "")
    assert status == BROKEN and told in lines[0]
    if line is None:
        assert lines[0].startswith(f"{file}: ") and len(lines) == 1
    else:
        number = int(lines[0].removeprefix(f"{file}:").partition(":")[0])
        assert line in file.read_text().splitlines()[number - 1]
        assert lines[1].strip() == file.read_text().splitlines()[number - 1].strip()


def test_a_good_plugin_is_named_with_the_rules_it_keeps(tmp_path):
    file = write(tmp_path)
    status, (head, *rules) = verdict(str(file), None)
    assert status == FINE and head.startswith(f"{file}: defense 'Mine' keeps its contract, ")
    assert f" {len(rules)} rules in " in head
    assert "  rounds are models" in rules and "  a plugin prints nothing" in rules


def test_names_of_built_in_plugins_are_taken_and_others_are_bad_input(tmp_path):
    status, lines = verdict("small_cnn", None)
    assert status == FINE and "model 'Small CNN' keeps" in lines[0]
    status, (line,) = verdict("small_cmm", None)
    assert status == BAD_INPUT and "did you mean 'small_cnn'?" in line
    status, (line,) = verdict("small_cnn", "attacks")
    assert (status, line) == (BAD_INPUT, "small_cnn is no attack; accepted: model")
    status, (line,) = verdict(str(write(tmp_path)), "attacks")
    assert status == BAD_INPUT and line.endswith("is no attack; accepted: defense")


def check(*argv):
    return cli.main(["check", *map(str, argv)])


def test_bad_input_is_one_line(tmp_path, capsys):
    for argv, told in (
        (["no/such.py"], "no plugin file 'no/such.py'"),
        ([write(tmp_path), "defence"], "did you mean 'defense'?"),
        ([write(tmp_path), "--time-limit", "soon"], "--time-limit is 'soon'"),
    ):
        assert check(*argv) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1


def test_the_verb_tries_a_plugin_in_another_process(tmp_path, capsys, monkeypatch):
    body = "import os; open(os.path.dirname(__file__) + '/pid', 'w').write(str(os.getpid()))"
    (tmp_path / "mine.py").write_text(text_of("defenses", "mine") + body + "\n")
    monkeypatch.chdir(tmp_path)
    assert check("mine.py") == 0
    assert capsys.readouterr().out.startswith("mine.py: defense 'Mine' keeps its contract")
    assert int((tmp_path / "pid").read_text()) != os.getpid()


def test_the_verb_names_the_file_as_it_was_given(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "yield 0.5")
    assert check("mine.py") == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("mine.py:16: rounds are models") and second.strip() == "yield 0.5"


def test_a_plugin_that_hangs_is_ended(tmp_path, capsys):
    start = time.monotonic()
    assert check(write(tmp_path, "time.sleep(600); yield model"), "--time-limit", "6s") == 1
    assert "it took longer than 6s (--time-limit)" in capsys.readouterr().out
    assert time.monotonic() - start < 100


def test_a_plugin_that_ends_its_process_harms_nobody(tmp_path, capsys):
    assert check(write(tmp_path, "os._exit(3); yield model")) == 1
    assert "it ends its process (the worker exited with status 3)" in capsys.readouterr().out


def test_sys_is_as_it_was(tmp_path):
    before = list(sys.path)
    verdict(str(write(tmp_path, "sys.path.append('x'); yield model")), None)
    assert sys.path == before
