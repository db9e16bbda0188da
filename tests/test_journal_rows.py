"""Rows of a sweep on disk: a damaged one is named by its line, never kept."""

from pathlib import Path

import hostile
import pytest
from jaxmig.sweep import JournalError, journal, rows


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    return path


def resumed(path: Path) -> int:
    with journal.Journal(path, hostile.STAMP, lambda i: "", resume=True) as file:
        return file.done


def test_whole_rows_are_kept_and_a_torn_one_is_cut(tmp_path: Path) -> None:
    data = hostile._rows()
    assert resumed(written(tmp_path, data)) == 3
    assert resumed(written(tmp_path, data[:-5])) == 2
    assert (tmp_path / "x.csv").read_bytes() == b"".join(data.splitlines(True)[:3])
    assert [r["batch"] for r in journal.read(written(tmp_path, data))] == [
        7,
        1007,
        2007,
    ]


def test_every_cell_of_a_row_counts(tmp_path: Path) -> None:
    """One digit more, less or another in any of its cells."""
    heading, first, second, third = hostile._rows().decode().splitlines(True)
    cells = second.rstrip("\n").split(",")
    for i in range(len(cells) - 1):  # the last is the sweep, which is told apart
        for cell in (cells[i] + "0", cells[i][:-1], "8" + cells[i][1:], "²"):
            if cell == cells[i]:
                continue
            line = ",".join([*cells[:i], cell, *cells[i + 1 :]]) + "\n"
            path = written(tmp_path, (heading + first + line + third).encode())
            for read in (resumed, journal.read):
                with pytest.raises(
                    JournalError, match=r"line 3 is damaged \(.*; use --o"
                ):
                    read(path)


@pytest.mark.parametrize("odd", ["\x0b", "\x1c", "\u2028", "\x85", "\r"])
def test_only_a_newline_ends_a_row(tmp_path: Path, odd: str) -> None:
    data = hostile._rows().decode()
    at = data.index("\n") + 3
    path = written(tmp_path, (data[:at] + odd + data[at:]).encode())
    with pytest.raises(JournalError, match="line 2 is damaged"):
        resumed(path)


def test_a_link_is_no_file_of_rows(tmp_path: Path) -> None:
    written(tmp_path, hostile._rows())
    (tmp_path / "link.csv").symlink_to("x.csv")
    with pytest.raises(JournalError, match="is a link; name the file itself"):
        resumed(tmp_path / "link.csv")


def test_rows_are_one_line_each() -> None:
    assert rows.heading().count("\n") == 1
    assert len(hostile._rows().splitlines()) == 4
