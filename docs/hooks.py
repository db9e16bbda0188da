"""What mkdocs fills in when it builds the site: options, releases, profiles.

They come from the parsers and tables themselves, so they cannot be out of date.  A line
`<!-- fill: NAME -->` in a page becomes what the function of that name returns.
"""

import argparse
import dataclasses
import re
from collections.abc import Callable
from typing import Any, Final

from jaxmig import RELEASES, machines
from jaxmig.cli import app
from jaxmig.cli.errors import Parser
from jaxmig.sources.procfs.schema import table
from jaxmig.time.machines.schema import SCHEMA

MARK: Final = re.compile(r"^<!-- fill: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return MARK.sub(lambda found: FILLS[found[1]](), markdown)


def parsers() -> list[tuple[str, Parser, str]]:
    """(name, parser, summary) of each command."""
    actions = app.parser()._actions
    sub = next(a for a in actions if isinstance(a, argparse._SubParsersAction))
    texts = {a.dest: a.help or "" for a in sub._choices_actions}
    return [(name, p, texts[name]) for name, p in sub.choices.items()]


def commands() -> str:
    """Every command with its examples and options."""
    return "\n".join(_command(*found) for found in parsers())


def _command(name: str, parser: Parser, summary: str) -> str:
    examples = [e.removeprefix("  ") for e in parser.example.splitlines()]
    lines = [f"## jaxmig {name}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
    lines += ["```text", *examples, "```", ""]
    for group in parser._action_groups:
        rows = [_option(a) for a in group._group_actions]
        rows = [r for r in rows if r]
        if rows:
            text = [f"{group.description}", ""] if group.description else []
            lines += [*text, f"| {group.title} | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _option(action: argparse.Action) -> str:
    """A row of a table, nothing for --help."""
    if "--help" in action.option_strings or action.help == argparse.SUPPRESS:
        return ""
    value = action.metavar if isinstance(action.metavar, str) else ""
    value = value or action.dest.upper()
    flag = action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction)
    names = [f"`{n}`" if flag else f"`{n} {value}`" for n in action.option_strings]
    chosen = f"one of {', '.join(map(str, action.choices or ()))}"
    text = (action.help or "").replace("%%", "%") or (chosen if action.choices else "")
    return f"| {', '.join(names) or f'`{value}`'} | {_cell(text)} |"


def releases() -> str:
    """Where each row is from, then a row a switch: the releases that have it."""
    lines = ["| release | row |", "|---|---|"]
    lines += [f"| {name} | {r.source} |" for name, r in RELEASES.items()]
    lines += ["", "| switch | releases |", "|---|---|"]
    for field in dataclasses.fields(next(iter(RELEASES.values()))):
        if field.name not in ("name", "source", "defers"):
            lines.append(f"| `{field.name}` | {_spans(field.name)} |")
    return "\n".join(lines)


def _spans(switch: str) -> str:
    """The releases that have a switch, runs of numbered ones as ranges."""
    spans: list[list[str]] = []
    open_ = False
    numbered = [name for name in RELEASES if name[0].isdigit()]
    for name in numbered:
        has = getattr(RELEASES[name], switch)
        if has and not open_:
            spans.append([])
        if has:
            spans[-1].append(name)
        open_ = has
    found = [s[0] if len(s) == 1 else f"{s[0]} - {s[-1]}" for s in spans]
    posted = [
        n for n, r in RELEASES.items() if n not in numbered and getattr(r, switch)
    ]
    return ", ".join(found + posted)


def schema() -> str:
    """What a profile says: key, unit, meaning, and on which architectures."""
    lines = ["| key | unit | meaning | architectures |", "|---|---|---|---|"]
    for key, spec in SCHEMA.items():
        archs = "all" if len(spec.archs) == 3 else ", ".join(spec.archs)
        lines.append(f"| `{key}` | {spec.unit} | {_cell(spec.meaning)} | {archs} |")
    return "\n".join(lines)


def profiles() -> str:
    """Every number of every profile, with its range and its source."""
    parts = []
    for name in machines.names():
        p = machines.load(name)
        lines = [f"### {name}", "", f"{p.title} ({p.arch}).", ""]
        lines += ["| key | value | range | source | origin |"]
        lines += ["|---|---|---|---|---|"]
        for key, n in p.numbers.items():
            ends = "" if n.low is None else f"{n.low:g} .. {n.high:g}"
            cells = (
                f"`{key}`",
                f"{n.value:g} {n.unit}",
                ends,
                _cell(n.source),
                n.origin,
            )
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


FILLS: Final[dict[str, Callable[[], str]]] = {
    "commands": commands,
    "releases": releases,
    "schema": schema,
    "snapshot": table,
    "profiles": profiles,
}
