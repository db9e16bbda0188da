"""Each rule of Linux stands once: a switch of a release is read in one function."""

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

from jaxmig.linux import rules

PACKAGE = Path(rules.__file__).parent.parent
# What carries rules, and what only hands them on or says so to a user.
ENGINE: Final = ("linux", "engine")
STATED: Final = ("rules.py", "releases.py")  # where they are said, not asked
# Not one commit's rule but what the whole call is like; read wherever that matters.
KINDS: Final = {
    "batched": "up to 6.2 or from 6.3 on",
    "crossing_opens_next": "the series as posted",
    "broadcasts": "arm64: no interrupts",
    "invlpgb": "AMD: no interrupts",
    "offloads": "the posted copy engine: folios that it copies are a kind of their own",
}
# What two functions ask, and why.
TWICE: Final = {
    "keeps_mask": "who leaves stays in the mask, and a later flush finds him there",
    "waits_for_writeback": "mode is SYNC, which has dirty pages written, too",
    "split_flushes_batch": "the walk puts its flushes off, and the split sends them",
}


def readers() -> dict[str, set[str]]:
    """Functions of the engine that read each flag of the rules; methods count alike."""
    found = defaultdict(set)
    files = [p for name in ENGINE for p in sorted((PACKAGE / name).rglob("*.py"))]
    files = [p for p in files if p.name not in STATED]
    assert len(files) > 30
    for path in files:
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            for part in ast.walk(node):
                if isinstance(part, ast.Attribute) and part.attr in rules.FLAGS:
                    found[part.attr].add(f"{path.name}: {node.name}")
    return found


def test_a_switch_is_read_in_one_function() -> None:
    found, more = readers(), {}
    for name in rules.FLAGS:
        if name in KINDS:
            continue
        allowed = 2 if name in TWICE else 1
        if len(found[name]) > allowed:
            more[name] = sorted(found[name])
    assert not more


def test_every_switch_is_read() -> None:
    found = readers()
    unread = [name for name in rules.FLAGS if not found[name]]
    # Properties of Rules ask for these two.
    assert unread == ["asynchronous", "memalloc"]
    text = (PACKAGE / "linux/rules.py").read_text()
    assert all(f"self.{name}" in text for name in unread)
