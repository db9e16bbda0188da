"""The table of versions: what .ci/versions keeps, renews and complains of."""

import ast
import importlib
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from jaxmig.state import xla

ROOT = Path(__file__).parent.parent
versions = SimpleNamespace(**runpy.run_path(str(ROOT / ".ci/versions")))
NAMES = list(versions.RATIOS)


def row(jax: str, tricks: str = "on", python: str = "3.12", **cells: str) -> Any:
    """A whole row; its ratios are one unless told otherwise."""
    row = dict.fromkeys(NAMES, "1.00") | {"load": "0", "tests": "9 passed"}
    return row | {"Python": python, "jax": jax, "tricks": tricks} | cells


def test_the_page_has_the_versions_whose_tricks_are_tested() -> None:
    rows = versions.rows_of(versions.PAGE.read_text("utf-8"))
    for tricks in ("on", "off"):
        named = {r["jax"] for r in rows if r["tricks"] == tricks}
        assert named & set(xla.TESTED) == (set(xla.TESTED) if tricks == "on" else set())
    assert {r["Python"] for r in rows} == set(versions.PYTHONS)
    # The page is what the script would write.
    assert versions.table(rows) in versions.PAGE.read_text("utf-8")


def test_a_run_renews_only_its_own_cells() -> None:
    old = [row("0.10.2"), row("0.12.0.1", tests="7 passed")]
    new = {"Python": "3.12", "jax": "0.12.0.1", NAMES[1]: "1.20"}
    made = versions.merged(old, new)
    assert made == [old[0], old[1] | {NAMES[1]: "1.20"}]
    # Versions that are new come in order, 0.6 before 0.10; what was not tried is a dash.
    made = versions.merged(
        made, {"Python": "3.11", "jax": "0.6.0", "tests": "1 failed"}
    )
    assert [r["jax"] for r in made] == ["0.6.0", "0.10.2", "0.12.0.1"]
    assert [made[0][name] for name in NAMES] == ["-"] * len(NAMES)
    made = versions.merged(made, row("0.10.2", python="3.11"))
    assert [r["Python"] for r in made] == ["3.11", "3.11", "3.12", "3.12"]


def test_ratios_are_marked_where_they_do_not_hold() -> None:
    slow = {NAMES[0]: "1.31", NAMES[1]: "1.30", NAMES[2]: "fails"}
    rows = [row("0.6.0", "off", **slow), row("0.10.2"), row("0.12.0.1", **slow)]
    said = [[r[name] for name in NAMES] for r in versions.marked(rows)]
    assert said[0] == ["1.31 (off)", "1.30", "fails", "1.00"]
    assert said[1] == ["1.00"] * len(NAMES)
    assert said[2] == ["1.31 (slow)", "1.30", "fails", "1.00"]
    assert versions.rows_of(f"before\n\n{versions.table(rows)}\nafter\n") == rows


@pytest.mark.parametrize(
    ("cells", "bad"),
    [
        ({}, False),
        ({"tests": "-"}, False),
        ({"tests": "9 passed, 2 skipped"}, False),
        ({"tests": "1 failed, 9 passed"}, True),
        ({"tests": "9 passed, 1 error"}, True),
        ({"tests": "no Python 3.12 here"}, True),
        ({NAMES[0]: "2.00 (off)"}, False),
        ({NAMES[0]: "2.00 (slow)"}, True),
        ({NAMES[0]: "fails"}, True),
    ],
)
def test_what_does_not_hold_ends_with_1(cells: dict[str, str], bad: bool) -> None:
    assert versions.bad(row("0.10.2", **cells)) is bad


def test_the_last_line_of_pytest_becomes_a_cell() -> None:
    text = "FAILED x\n===== 1 failed, 8 passed, 2 skipped in 61.20s (0:01:01) =====\n"
    assert versions.last(text) == "1 failed, 8 passed, 2 skipped"
    assert versions.last("") == "nothing said"
    assert "|" not in versions.last("a | b")


# Used only where it is there.
GUARDED = {"jax.shard_map"}


def missing(source: str) -> tuple[int, set[str]]:
    """How many names of JAX a file uses, and those that this JAX does not have."""
    # What each name at the start of a dotted one stands for.
    means, used = {"jax": "jax", "jnp": "jax.numpy"}, set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("jax."):
            names = {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            means |= names
            used |= set(names.values())
    for node in ast.walk(tree):
        first, *rest = ast.unparse(node).split(".") if _dotted(node) else [""]
        if first in means:
            used.add(".".join([means[first], *rest]))
    return len(used), {name for name in used if not there(name)} - GUARDED


def _dotted(node: ast.AST) -> bool:
    """Whether it is a.b.c and nothing else."""
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) or _dotted(node.value)
    return False


def there(name: str) -> bool:
    """Whether a dotted name leads somewhere: through modules, then attributes."""
    found: Any = jax
    for part in name.split(".")[1:]:
        if not hasattr(found, part):
            try:
                found = importlib.import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                return False
        else:
            found = getattr(found, part)
    return True


def test_this_jax_has_every_name_that_is_used() -> None:
    counted = 0
    for path in [
        p for d in ("jaxmig", "bench", "tests") for p in (ROOT / d).rglob("*.py")
    ]:
        names, gone = missing(path.read_text("utf-8"))
        assert not gone, path
        counted += names
    assert counted > 700
    text = """
import jax
from jax.experimental import pallas as pl
from jax.extend.core import Nothing
pl.nowhere(jax.lax.gone(jnp.ones(3)))
"""
    gone = {
        "jax.extend.core.Nothing",
        "jax.experimental.pallas.nowhere",
        "jax.lax.gone",
    }
    assert missing(text) == (6, gone)  # with pallas, jax.lax and jax.numpy.ones
    assert there("jax.numpy.ones")
