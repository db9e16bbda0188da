"""`jaxmig diff`: what changed between two results, and why."""

import argparse
import json
import sys
from typing import Any

from jaxmig import report
from jaxmig.cli.errors import Failure
from jaxmig.host import files
from jaxmig.host.terminal import printable
from jaxmig.report import diff


def run(args: argparse.Namespace) -> int:
    """Compare and print, counts first; returns 0 also where the results differ."""
    documents = [_load(name) for name in (args.before, args.after)]
    for name, document in zip((args.before, args.after), documents, strict=True):
        try:
            diff.check(document)
        except ValueError as error:
            raise Failure(f"{name}: {error}; write it again with --json") from None
    try:
        lines, rows = diff.differences(*documents)
        said = diff.answer(*documents)
    except ValueError as error:
        raise Failure(f"{args.before}, {args.after}: {error}") from None
    for line in [*said, *(f"  {line}" for line in lines)]:
        print(printable(line))
    if rows:
        cells = [[printable(cell) for cell in row] for row in rows]
        width = report.terminal_width(sys.stdout)
        print("\n" + report.table(diff.HEADERS, cells, args.table, width, (0, 1)))
    return 0


def _load(name: str) -> Any:
    try:
        text = files.text(name)
    except files.FileError as error:
        raise Failure(f"{name}: {error}; name a result of --json") from None
    if not text.strip():
        raise Failure(f"{name}: the file is empty; write it with --json")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # Too many digits are a ValueError of its own.
        raise Failure(
            f"{name}: no single document of JSON; name a result of --json"
        ) from None
    if not isinstance(found, dict):
        raise Failure(f"{name}: no result of --json")
    return found
