"""`--report FILE.html`: what a command found as one page to hand on."""

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
    """The file, if one was asked for. Raises Usage for another kind of it."""
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
    """The page, if one was asked for."""
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


def _text(text: str) -> str:
    """Without what would steer whoever reads the page's source."""
    return "\n".join(map(printable, text.split("\n")))


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
