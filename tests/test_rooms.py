"""The house: arrows between rooms point one way, and no circle stands anywhere (imports inside functions count too)."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import s3mini

ROOT = Path(s3mini.__file__).parent
FLOORS = """
errors unicode
profile
records
choices
runs
corpus
protocols
models retrieval
reward episodes generator
bench
rag
methods training
statistics results
grpo evaluation
opponents
experiments
hub world
report owndata pretrain doctor classroom wiki
cli
"""
"""From the ground up: a room may import what stands on its own floor or below it."""
CORE = "records protocols episodes reward generator bench rag methods grpo evaluation opponents experiments results".split()
NEVER = ("s3mini.report", "s3mini.hub", "s3mini.doctor", "s3mini.classroom", "s3mini.runs.ray", "ray")


def imports() -> dict[str, set[str]]:
    """Every module of the package, and the modules it imports."""
    files = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts): p for p in ROOT.rglob("*.py")}
    names = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = here[: len(here) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                whole = [f"{source}.{alias.name}" for alias in node.names]
                graph[name] |= {module if module in names else source for module in whole}
    return graph


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_import_names_a_module_that_is_there() -> None:
    graph = imports()
    named = {n for ns in graph.values() for n in ns if n.startswith("s3mini")}
    assert named <= graph.keys()


def test_arrows_point_down() -> None:
    floor = {name: i for i, line in enumerate(FLOORS.split("\n")) for name in line.split()}
    graph = imports()
    assert {room(m) for m in graph} - {""} == set(floor), "every room has its floor"
    up = [(m, n) for m, ns in graph.items() for n in ns if n in graph and room(m) and room(n)]
    assert [(m, n) for m, n in up if floor[room(m)] < floor[room(n)]] == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = imports()
    # what a package's own __init__ gathers is its front door, not an arrow back
    inside = {m: {n for n in ns if n in graph and not m.startswith(f"{n}.")} for m, ns in graph.items()}
    TopologicalSorter({m: ns - {"s3mini"} for m, ns in inside.items() if m != "s3mini"}).prepare()


def test_the_core_knows_nothing_of_the_engine_room() -> None:
    for module, names in imports().items():
        if room(module) in CORE:
            assert not [n for n in names if n.startswith(NEVER)], module
