"""Play one scenario on the engine and on the oracle, and say where they differ."""

from __future__ import annotations

import errno
import functools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from engine_snapshot import Before, canonical
from invariants import LEDGER, VIOLATIONS
from jaxmig.sources.scenario import ScenarioError, loads
from jaxmig.time import machines
from jaxmig.tools import check, player
from oracle import Refused, SleepsForever, play

Document = dict[str, Any]
PROFILES = {
    "x86": "xeon-2s",
    "x86-invlpgb": "zen3-2s-invlpgb",
    "arm64": "arm64-2n128c",
}
profile = functools.cache(machines.load)  # a file is read once, not once an example
FIELDS = (
    "ret",
    "errno",
    "vmstat",
    "ipis_per_cpu",
    "batches",
    "allocs",
    "status",
    "nodes_after",
    "caller_errno",
)
# Counters of some calls or releases only: a record without them has 0.
EXTRA = ("lists", "reclaimed", "copies_wasted", "nr_isolated")
# What became of the scenarios: compared, asleep for ever, refused.
PLAYED: Counter[str] = Counter()


def to_toml(document: Document) -> str:
    """The text of a scenario: the reader's own way in."""
    lines = []
    for name, value in document.items():
        tables = value if isinstance(value, list) else [value]
        if name == "kernel":
            lines.append(f"kernel = {json.dumps(value)}")
            continue
        title = "[machine]" if name == "machine" else f"[[{name}]]"
        for table in tables:
            lines += [title, *(f"{k} = {_value(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{k} = {_value(v)}" for k, v in value.items())
        return "{ " + inner + " }"
    return json.dumps(value)


def engine(
    document: Document, kernel: str, *, batch: int = 512, arch: str, content: bool
) -> tuple[list[Document], list[Document]]:
    """Records of all calls, and pictures before the first and after each."""
    scenario = loads(to_toml(document))
    copy = document["machine"].get("copy", "cpu")
    options = player._Options(batch, arch, copy, profile(PROFILES[arch]))
    state, layout = player.build(scenario, content=content, share_programs=True)
    state = player.start(scenario, state, kernel)
    before = Before(scenario, state, layout)
    had = LEDGER(state)
    records, pictures = [], [before.snapshot(state)]
    for number in range(len(scenario.calls)):
        state, made = player._call(scenario, layout, state, kernel, number, options)
        if made.get("caller") == "soft_offline":
            had = LEDGER(state)  # poisoned frames are lost
        broken = check.explain(int(VIOLATIONS(state, had)))
        records.append(_fields(made) | {"broken": broken})
        pictures.append(before.snapshot(state))
    return records, pictures


def oracle(
    document: Document, kernel: str, *, batch: int = 512, arch: str, content: bool
) -> tuple[list[Document], list[Document]]:
    """The same from the oracle."""
    pictures = []

    def take(world: Any, call: int = 0) -> None:
        pictures.append(canonical(world.snapshot(), content))

    made = play(document, kernel, batch=batch, arch=arch, prepare=take, after=take)
    records = [_fields(r) for r in made.records]
    calls = zip(records, document["call"], made.outcomes, strict=True)
    for record, call, outcome in calls:
        record["broken"] = []
        if "caller" in call:
            record["caller_errno"] = errno.errorcode[-outcome] if outcome < 0 else None
    return records, pictures


def _fields(record: Document) -> Document:
    """What is compared of a record."""
    found = {k: record[k] for k in FIELDS if k in record}
    return found | {k: record.get(k, 0) for k in EXTRA}


def differences(document: Document, kernel: str, **options: Any) -> list[str]:
    """One line for each value on which engine and oracle disagree; [] if none."""
    wanted, trouble = None, None
    try:
        wanted = oracle(document, kernel, **options)
    except (SleepsForever, Refused) as error:
        trouble = error
    try:
        found = engine(document, kernel, **options)
    except ScenarioError as error:
        if isinstance(trouble, SleepsForever) and "sleep for ever" in str(error):
            PLAYED["asleep"] += 1
            return []
        if isinstance(trouble, Refused) or "not modelled" in str(error):
            PLAYED["refused"] += 1
            return []  # refused, which is no disagreement
        raise
    if wanted is None:
        return [f"the engine plays what the oracle does not: {trouble}"]
    PLAYED["compared"] += 1
    # Walking through a hundred thousand equal values takes longer than playing.
    if wanted == found:
        return []
    lines = []
    for name, a, b in zip(("record", "picture"), wanted, found, strict=True):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            lines += [f"{name} {i}{line}" for line in diff(x, y)]
    return lines


def diff(wanted: Any, found: Any, where: str = "") -> Iterator[str]:
    """Lines "where: oracle's value, engine's value"."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in {**wanted, **found}:
            yield from diff(wanted.get(key), found.get(key), f"{where}.{key}")
    elif wanted != found:
        both = isinstance(wanted, list) and isinstance(found, list)
        if both and len(wanted) == len(found):
            for i, (x, y) in enumerate(zip(wanted, found, strict=True)):
                yield from diff(x, y, f"{where}[{i}]")
        else:
            yield f"{where}: oracle {wanted!r}, engine {found!r}"
