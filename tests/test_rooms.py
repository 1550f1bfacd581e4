"""The rooms of the project: each knows only what lies below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = {"attacks", "defenses", "models"}
KNOWS = {
    "ground": set(),
    "models": {"ground"},
    "attacks": {"ground", "models"},
    "defenses": {"ground", "models"},
    "datasets": {"ground"},
    "jobs": {"ground", *PLUGINS},
    "cache": {"ground"},
    "run": {"ground", "cache"},
    "grid": {"ground", *PLUGINS, "jobs", "cache"},
    "report": {"ground"},
    "contract": {"ground", *PLUGINS, "jobs"},
    "templates": {"ground", *PLUGINS},
}
KNOWS["cli"] = set(KNOWS)
"""What each room may import, itself aside; "ground" is the files of `benchmark/`."""
REPORT_KNOWS = {
    "sau_bench.benchmark.rows",
    "sau_bench.benchmark.published",
    "sau_bench.benchmark.errors",
}


def modules() -> dict[str, Path]:
    files = [f for top in ("benchmark", *PLUGINS) for f in (ROOT / top).rglob("*.py")]
    names = {".".join(("sau_bench", *f.relative_to(ROOT).with_suffix("").parts)): f for f in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


MODULES = modules()


def room(module: str) -> str:
    _, top, *rest = module.split(".")
    if top in PLUGINS:
        return top
    return rest[0] if rest and rest[0] in KNOWS else "ground"


def imports(module: str) -> Iterator[str]:
    """The modules of this project that a module imports, at whatever place."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inside]
        yield from (name for name in names if name in MODULES)


@pytest.mark.parametrize("name", sorted(KNOWS))
def test_a_room_knows_only_what_lies_below_it(name):
    inside = [module for module in MODULES if room(module) == name]
    assert inside
    wrong = {
        f"{module} -> {other}"
        for module in inside
        for other in imports(module)
        if room(other) not in KNOWS[name] | {name}
    }
    assert not wrong


def test_reports_know_the_schema_of_a_row_and_published_numbers_and_nothing_else():
    known = {
        other
        for module in MODULES
        if room(module) == "report"
        for other in imports(module)
        if room(other) != "report"
    }
    assert known <= REPORT_KNOWS


def test_no_module_needs_itself():
    graph = {module: set(imports(module)) - {module} for module in MODULES}
    order: list[str] = []
    while graph:
        free = [module for module, needs in graph.items() if not needs & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for module in free:
            order.append(module)
            del graph[module]
    assert len(order) == len(MODULES)


def test_a_plugin_knows_no_other_plugin():
    shared = {
        "sau_bench.attacks.base",
        "sau_bench.attacks.asset",
        "sau_bench.attacks.files",
        "sau_bench.defenses.base",
        "sau_bench.defenses.batch_norm",
    }
    shared |= {
        "sau_bench.defenses.perturbation",
        "sau_bench.defenses.second_order",
        "sau_bench.models.classifier",
        "sau_bench.attacks.wrapped",
    }
    wrong = {
        f"{module} -> {other}"
        for module in MODULES
        if room(module) in PLUGINS
        for other in imports(module)
        if room(other) in PLUGINS and other not in shared | {f"sau_bench.{top}" for top in PLUGINS}
    }
    assert not wrong
