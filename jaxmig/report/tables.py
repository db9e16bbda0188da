"""Tables as text, in several formats, no wider than the terminal.

A table that is too wide is cut between columns and continued below, with its first column
repeated; formats for programs (tsv) and web pages (github) are never cut.
"""

import shutil
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from tabulate import tabulate  # type: ignore[import-untyped]

from jaxmig.host.terminal import FORMATS

_UNCUT: Final = ("github", "tsv")


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    fmt: str = "simple",
    width: int | None = None,
    left: Sequence[int] = (0,),
) -> str:
    """The table as text without a final newline.

    Args:
      headers: of the columns.
      rows: cells, as many in each row as there are headers.
      fmt: one of FORMATS in `jaxmig.host.terminal`.
      width: columns of the terminal; None for no limit.
      left: indices of columns that hold words and are aligned left; others right.
    Returns:
      Lines joined by newlines.
    Raises:
      ValueError: an unknown format, or a row of another length than the headers.
    """
    if fmt not in FORMATS:
        raise ValueError(f"table format {fmt!r}: use one of {', '.join(FORMATS)}")
    if any(len(row) != len(headers) for row in rows):
        raise ValueError("every row needs one cell a column")
    if fmt == "tsv":
        # tabulate pads its tsv with spaces, which programs would have to strip.
        return "\n".join("\t".join(map(_flat, row)) for row in (headers, *rows))
    align = ["left" if i in left else "right" for i in range(len(headers))]
    text = _draw(headers, rows, fmt, align, range(len(headers)))
    if width is None or fmt in _UNCUT or _widest(text) <= width:
        return text
    blocks = _blocks(headers, rows, fmt, align, width)
    return "\n\n".join(_draw(headers, rows, fmt, align, b) for b in blocks)


def terminal_width(stream: TextIO) -> int | None:
    """The width at which to cut tables: the terminal's, or None for a file or a pipe."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def wants_color(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether to print bold text: on a terminal, unless NO_COLOR says no.

    Source: no-color.org, any non-empty value counts.
    """
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def bold(text: str, on: bool) -> str:
    """`text`, in bold if `on`."""
    return f"\x1b[1m{text}\x1b[0m" if on else text


def _blocks(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    fmt: str,
    align: Sequence[str],
    width: int,
) -> list[list[int]]:
    """Column indices of each piece, which has at least one column beside the first."""
    blocks: list[list[int]] = []
    block = [0]
    for column in range(1, len(headers)):
        wider = _widest(_draw(headers, rows, fmt, align, [*block, column])) > width
        if wider and len(block) > 1:
            blocks.append(block)
            block = [0]
        block.append(column)
    return [*blocks, block]


def _draw(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    fmt: str,
    align: Sequence[str],
    columns: Sequence[int],
) -> str:
    text: str = tabulate(
        [[row[c] for c in columns] for row in rows],
        headers=[headers[c] for c in columns],
        tablefmt=fmt,
        colalign=[align[c] for c in columns] if rows else None,
        disable_numparse=True,  # else "6.10" would be printed as 6.1
    )
    return text


def _widest(text: str) -> int:
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    return max(map(len, plain.splitlines()), default=0)


def _flat(cell: str) -> str:
    return " ".join(cell.replace("\x1b[1m", "").replace("\x1b[0m", "").split())
