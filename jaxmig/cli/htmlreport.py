"""`--report FILE.html`: the results of a command as one HTML page."""

import argparse
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jaxmig.cli import output
from jaxmig.cli.errors import Usage
from jaxmig.host.terminal import printable

if TYPE_CHECKING:
    from jaxmig.show.html import Section


def files(args: argparse.Namespace) -> list[str]:
    """The file's name in a list, which is empty without `--report`.

    Raises:
      Usage: the name does not end in .html or .htm.
    """
    if args.report is None:
        return []
    if not args.report.endswith((".html", ".htm")):
        raise Usage(f"--report {args.report}: a page's name ends in .html")
    return [args.report]


def write(
    args: argparse.Namespace,
    title: str,
    sections: Iterable["Section"],
    assumed: Sequence[str],
    notes: Sequence[str] = (),
) -> None:
    """Write the page, if `--report` was given.

    Args:
      args: of the command; `report` is the file and `typed` the command line.
      title: of the page.
      assumed: lines about the machine that the numbers hold for, and its state.
      notes: lines at the end.
    Raises:
      Failure: the file cannot be written.
    """
    if args.report is None:
        return
    from jaxmig.show import html

    page = html.Page(
        title=_text(title),
        command=_text(shlex.join(["jaxmig", *args.typed])),
        versions=_versions(),
        assumed=tuple(map(_text, assumed)),
        sections=tuple(sections),
        notes=tuple(map(_text, notes)),
    )
    output.write(args.report, html.render(page))


def _text(raw: str) -> str:
    """`raw` with control characters escaped, which could steer a terminal."""
    return "\n".join(map(printable, raw.split("\n")))


def _versions() -> str:
    import jax

    from jaxmig import __version__

    system = f"{platform.system()} {platform.machine()}"
    python = ".".join(map(str, sys.version_info[:3]))
    device = jax.devices()[0].device_kind
    return (
        f"jaxmig {__version__}, JAX {jax.__version__} on {device}, Python {python}, "
        f"{system}"
    )
