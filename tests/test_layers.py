"""Imports go in one direction: from what people touch down to the state."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "jaxmig"
# From the top down: a module may import from its own layer and from those below.
LAYERS = (
    ("cli", "__main__"),
    (
        "advise",
        "explain",
        "reproduce",
        "sweep",
        "plots",
        "html",
        "calibrate",
        "job",
        "comparison",
    ),
    ("custom", "player", "targets", "resident", "ahead"),
    ("world", "workloads", "stalls", "timeline", "timetable"),
    ("callers", "footprint"),
    ("syscalls", "nodes"),
    ("report",),
    ("cost",),
    ("machines",),
    ("scenario", "snapshot", "procfs", "traces"),
    ("__init__",),
    ("query", "check", "verify", "access", "picture", "sentences", "shard"),
    ("migrate",),
    ("policy",),
    ("phases",),
    ("build", "uniform"),
    ("regions",),
    ("alike",),
    ("assemble",),
    ("arguments",),
    ("tlb",),
    ("contents", "conditions", "rules", "events", "log", "buckets"),
    ("machine", "releases"),
    ("pte", "frame", "xla", "pytree", "files", "terminal", "ranges"),
    ("naming",),
    ("refused",),
)
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def imports(path: Path) -> set[str]:
    """Top-level modules of jaxmig that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "jaxmig"
        ):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
            found |= {
                n[1] if len(n) > 1 else "__init__" for n in names if n[0] == "jaxmig"
            }
    return {"__init__" if name not in RANK else name for name in found}


def test_every_module_has_a_layer() -> None:
    modules = {p.stem for p in PACKAGE.glob("*.py")}
    modules |= {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert modules <= RANK.keys(), f"without a layer: {modules - RANK.keys()}"


def test_imports_only_go_down() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if mine == "__init__":
            continue
        wrong += [
            f"{path.relative_to(PACKAGE)} imports {other}"
            for other in imports(path)
            if RANK[other] < RANK[mine]
        ]
    assert wrong == []
