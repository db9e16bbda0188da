"""`jaxmig machines`: the cost profiles, and where each of their numbers comes from."""

import argparse
import sys
from typing import Any

from jaxmig import report
from jaxmig.cli.output import write
from jaxmig.time import machines


def run(args: argparse.Namespace) -> int:
    """Print the list, or one profile."""
    names = [args.name] if args.name else machines.names()
    profiles = [machines.load(name) for name in names]
    if args.json:
        made = [_plain(p) for p in profiles]
        write(args.json, report.to_json({"machines": made}, indent=1) + "\n")
        return 0
    width = report.terminal_width(sys.stdout)
    if args.name:
        print(report.machine_text(profiles[0], args.table, width))
    else:
        print(report.machines_text(profiles, args.table, width))
    return 0


def _plain(profile: machines.Profile) -> dict[str, Any]:
    numbers = {
        key: {"value": n.value, "unit": n.unit, "origin": n.origin}
        | {"source": n.source}
        | ({} if n.low is None else {"low": n.low, "high": n.high})
        for key, n in profile.numbers.items()
    }
    engines = {
        name: {
            size: {"unit": t.unit, "source": t.source, "rates": dict(t.rates)}
            for size, t in (("small", engine.small), ("huge", engine.huge))
            if t is not None
        }
        for name, engine in profile.engines.items()
    }
    shape: dict[str, Any] = {
        "name": profile.name,
        "title": profile.title,
        "arch": profile.arch,
    }
    return shape | {"numbers": numbers, "engines": engines}
