"""The machine profiles as tables: each number with its meaning and source."""

import textwrap
from collections.abc import Sequence
from typing import Any

from jaxmig.report.tables import table
from jaxmig.time.machines import SCHEMA, Number, Profile
from jaxmig.time.machines.schema import LATER

COSTS = "costs measured / published / assumed"


def machines_text(
    profiles: Sequence[Profile], fmt: str = "simple", width: int | None = None
) -> str:
    """A table with a line for each machine."""
    rows = [
        [p.name, p.arch, str(p.nodes), str(p.cpus), _engines(p), _costs(p), p.title]
        for p in profiles
    ]
    headers = ["name", "arch", "nodes", "CPUs", "copy engines", COSTS, "machine"]
    return table(headers, rows, fmt, width, left=(0, 1, 4, 5, 6))


def machine_text(
    profile: Profile, fmt: str = "simple", width: int | None = None
) -> str:
    """Every number of one machine: value, range, unit, meaning and source."""
    rows = [
        [key, _show(n.value), _ends(n), n.unit, SCHEMA[key].meaning, n.source, n.origin]
        for key, n in profile.numbers.items()
    ]
    for engine in profile.engines.values():
        for size, rates in (("small", engine.small), ("huge", engine.huge)):
            for workers, gbps in rates.rates if rates else ():
                name = f"{engine.name}:{workers}.{size}"
                source = rates.source if rates else ""
                what = "end-to-end rate"
                row = [name, _show(gbps), "", "GB/s", what, source, "published"]
                rows.append(row)
    rows += [
        [key, "-", "", SCHEMA[key].unit, SCHEMA[key].meaning, _absent(key), "absent"]
        for key in profile.absent
    ]
    if width is not None:
        # Sources are sentences: folded, they leave the table fit for a terminal.
        rows = [
            [*row[:4], _fold(row[4], 28), _fold(row[5], 44), row[6]] for row in rows
        ]
    headers = ["number", "value", "range", "unit", "meaning", "source", "origin"]
    return table(headers, rows, fmt, width, left=(0, 3, 4, 5, 6))


def machine_dict(
    profile: Profile, cpus: int | None = None, nodes: int | None = None
) -> dict[str, Any]:
    """The `machine` of result documents; `cpus` and `nodes` replace the profile's."""
    return {
        "profile": profile.name,
        "arch": profile.arch,
        "nodes": nodes or profile.nodes,
        "cpus": cpus or profile.cpus,
    }


def _absent(key: str) -> str:
    other = LATER[key]
    what = f"taken as {other}" if other else "nothing is added for it"
    return f"not in the file: {what}"


def _costs(profile: Profile) -> str:
    return " / ".join(str(n) for n in profile.origins("cost.").values())


def _engines(profile: Profile) -> str:
    return ", ".join(profile.engines) or "-"


def _fold(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _ends(number: Number) -> str:
    if number.low is None or number.high is None:
        return ""
    return f"{_show(number.low)} .. {_show(number.high)}"


def _show(value: float) -> str:
    return f"{value:,}"
