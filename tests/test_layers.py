"""Imports go in one direction: from what people touch down to the state."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "jaxmig"
# From the top down: a folder's modules import from their own folder and from those below.
FOLDERS = (
    *(
        "cli",
        "show",
        "tools",
        "sources",
        "programs",
        "report",
        "time",
        "calls",
        "engine",
    ),
    *("linux", "state", "host"),
)
SAME_NAME = 3  # modules of one name: a command, its options, and what it runs
# `jaxmig` itself, which names everything and imports it late.
TOP = ("__init__", "__main__")


def modules() -> dict[str, Path]:
    """Files by dotted name, packages by that of their folder."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Modules of jaxmig that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            home = node.module or ""
            names = [f"{home}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            home, names = "", [a.name for a in node.names]
        else:
            continue
        for name in names:
            name = name.removeprefix("jaxmig.") if name.startswith("jaxmig.") else ""
            inside = name if name in MODULES else name.rpartition(".")[0]
            if inside in MODULES:
                found.add(inside)
    return found


IMPORTS = {name: imports(path) - {name} for name, path in MODULES.items()}


def test_at_most_a_dozen_folders_and_nothing_beside_them() -> None:
    beside = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    assert beside == {*FOLDERS, "__init__.py", "__main__.py", "py.typed"}
    assert len(FOLDERS) <= 12


def test_imports_only_go_down() -> None:
    rank = {name: i for i, name in enumerate(FOLDERS)}
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if name not in TOP
        and rank[other.partition(".")[0]] < rank[name.partition(".")[0]]
    ]
    assert wrong == []
    assert sum(map(len, IMPORTS.values())) > 500


def test_no_circle_also_inside_packages() -> None:
    inside = {name: others for name, others in IMPORTS.items() if name not in TOP}
    assert len(list(TopologicalSorter(inside).static_order())) == len(inside)


def test_no_name_stands_in_four_places() -> None:
    often = Counter(name.rpartition(".")[2] for name in MODULES)
    assert {n: count for n, count in often.items() if count > SAME_NAME} == {}
