"""Fill in what the documents quote of the repository: `python docs/make.py`.

A block begins with a comment that says what it holds and ends with `<!-- end -->`:

- `<!-- from FILE -->`: a file, in a fence unless it is Markdown.
- `<!-- text of MODULE -->` or `<!-- text of MODULE:NAME -->`: a docstring, up to its sections.
- `<!-- fields of MODULE:CLASS -->`: a table of the fields of a dataclass.
- `<!-- plugins of KIND -->`: every built-in plugin with its fields.
- `<!-- verb of VERB -->`: what a verb of the command line does, and its options.
- `<!-- marks of tables -->`, `<!-- times of configs -->`: from the code that prints marks, and from
  committed rows.

A test compares every block with what this script makes of it.
"""

import argparse
import importlib
import inspect
import re
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sau_bench.attacks.base import Attack  # noqa: E402
from sau_bench.benchmark.cli.main import make_parser  # noqa: E402
from sau_bench.benchmark.data import Dataset  # noqa: E402
from sau_bench.benchmark.fields import described, paragraphs  # noqa: E402
from sau_bench.benchmark.loading import load, plugin_names  # noqa: E402
from sau_bench.benchmark.plugin import KINDS  # noqa: E402
from sau_bench.benchmark.report.render import LEFT_OUT, MARKS, MEANINGS, pipes  # noqa: E402
from sau_bench.defenses.base import Defense  # noqa: E402
from sau_bench.models.classifier import Architecture  # noqa: E402

BASES = (Attack, Defense, Architecture, Dataset)
"""Classes whose fields every plugin of a kind has: tables of plugins leave them out."""
TRAITS = ("uses", "yields", "select", "clean_label", "argument")
"""Class variables that are printed where a plugin has others than most."""
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*/README.md")])
FENCES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".md": ""}
BLOCK = re.compile(r"<!-- (from|(?:text|fields|plugins|verb|marks|times) of) (\S+) -->\n")
END = "<!-- end -->"
WORDS = {
    "†": "diverged: not finite, or one class for all images",
    "n/a": "the method is not defined for this network",
    "unusable": "its rows cannot be used",
    "failed": "its job failed",
    "blocked": "a job that it needs failed",
    "-": "not run, or no number",
}
"""Meanings of marks that do not say it themselves."""


def filled(document):
    """The text of a document with every block made anew."""
    text, made = document.read_text(encoding="utf-8"), []
    while start := BLOCK.search(text):
        what, name = start.groups()
        made += [text[: start.end()], MAKERS[what](name).strip(), f"\n{END}"]
        text = text[text.index(END, start.end()) + len(END) :]
    return "".join([*made, text])


def quoted(name):
    text, fence = (ROOT / name).read_text(encoding="utf-8").strip(), FENCES[Path(name).suffix]
    return f"```{fence}\n{text}\n```" if fence else text


def text_of(name):
    """A docstring without its first line, which the heading above the block replaces."""
    text = inspect.getdoc(found(name))
    _, _, body = text.partition("\n\n")
    return re.split(r"^(?:Args|Returns|Raises):", body, flags=re.M)[0]


def fields_of(name):
    return field_table(described(found(name)))


def plugins_of(kind):
    parts = []
    for name in plugin_names(kind):
        cls = load(kind, name)
        own = cls.__module__.startswith(KINDS[kind] + ".")
        if own:
            parts += [f"### `{name}`", *plugin(cls)]
    return "\n\n".join(parts)


def plugin(cls):
    """What a reader of a config wants to know of a plugin: method, source, fields."""
    module = sys.modules[cls.__module__]
    file = Path(inspect.getfile(cls)).resolve().relative_to(ROOT)
    about = paragraphs(cls.__doc__, [field.name for field in described(cls)])
    yield f"{' '.join(inspect.getdoc(module).split())} ([source](../{file.as_posix()}))"
    yield " ".join(about[0].split())
    base = next(base for base in BASES if issubclass(cls, base))
    declared = {trait: getattr(cls, trait) for trait in TRAITS if hasattr(base, trait)}
    said = [f"`{k} = {v!r}`" for k, v in declared.items() if v != getattr(base, k)]
    if said:
        yield f"Declares {', '.join(said)}."
    inherited = described(base)
    if own := [field for field in described(cls) if field not in inherited]:
        yield field_table(own)


def field_table(fields):
    lines = [["field", "type", "default", "meaning"]]
    for field in fields:
        default = f"`{field.default}`" if field.default else "-"
        lines.append([f"`{field.name}`", field.type, default, field.meaning])
    return pipes(lines, left=4)


def verb_of(name):
    return "\n\n".join(described_parser(name, actions(make_parser())[name]))


def described_parser(name, parser):
    """What a verb does, and its options; then the same of its actions."""
    yield f"### `{name}`" if " " in name else parser.description
    if " " in name:
        yield parser.description
    options = [a for a in parser._actions if a.dest != "help" and not actions_of(a)]
    if options:
        lines = [["option", "effect"]]
        for option in options:
            names = ", ".join(option.option_strings)
            value = "" if option.nargs == 0 else option.metavar or value_name(option)
            lines.append([f"`{f'{names} {value}'.strip()}`", option.help or ""])
        yield pipes(lines, left=2)
    for action, inner in actions(parser).items():
        yield from described_parser(f"{name} {action}", inner)


def value_name(option):
    choices = "|".join(map(str, option.choices or ()))
    return choices or option.dest.upper()


def actions(parser):
    return {name: p for a in parser._actions for name, p in actions_of(a).items()}


def actions_of(action):
    return action.choices if isinstance(action, argparse._SubParsersAction) else {}


def marks_of(_):
    """Marks by what they look like: two states of a cell may share one."""
    meanings = {}
    for state, mark in MARKS.items():
        meanings.setdefault(mark, f"{state}{MEANINGS.get(state, '')}")
    meanings |= {mark: WORDS[mark] for mark in meanings if mark in WORDS}
    meanings[LEFT_OUT] = "left out of the Average: the undefended model is not sound"
    return pipes([["mark", "meaning"], *map(list, meanings.items())], left=2)


def times_of(_):
    """What the jobs of committed rows took, without scoring and what attacks need made first.

    Rows of configs in a folder are those of the config that includes them, of the folder's name.
    """
    lines = [["config", "jobs", "sum of their times", "on"]]
    files = defaultdict(list)
    for file in sorted((ROOT / "results").rglob("rows.csv")):
        config = file.relative_to(ROOT / "results").parts[0]
        if (ROOT / "configs" / f"{config}.yaml").exists():
            files[config].append(file)
    for config, its_files in files.items():
        rows = pd.concat(map(pd.read_csv, its_files))
        jobs = rows.groupby("key").agg({"seconds": "max", "device": "first"})
        hours = jobs["seconds"].sum() / 3600
        took = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
        lines.append(
            [f"`{config}`", str(len(jobs)), took, ", ".join(sorted(jobs["device"].unique()))]
        )
    return pipes(lines, left=1)


def found(name):
    module, _, attribute = name.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


MAKERS = {
    "from": quoted,
    "text of": text_of,
    "fields of": fields_of,
    "plugins of": plugins_of,
    "verb of": verb_of,
    "marks of": marks_of,
    "times of": times_of,
}


if __name__ == "__main__":
    for each in DOCUMENTS:
        new = filled(each)
        if new != each.read_text(encoding="utf-8"):
            each.write_text(new, encoding="utf-8")
            print(each.relative_to(ROOT))
