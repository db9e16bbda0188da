"""Rows of a sweep on disk: a damaged one is named by its line, never kept."""

import os
import tracemalloc
from pathlib import Path

import hostile
import pytest
from jaxmig.tools.sweep import JournalError, journal, rows
from test_files import room


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


def test_a_device_or_a_pipe_is_no_file_of_rows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.csv")
    for path in (tmp_path / "x.csv", Path("/dev/zero")):
        with pytest.raises(JournalError, match="is no file; choose another"):
            resumed(path)


def test_a_line_without_an_end_is_never_read_whole(tmp_path: Path) -> None:
    heading = rows.heading().encode()
    path = written(tmp_path, heading + b"7," * 10_000_000)
    tracemalloc.start()
    for read in (resumed, journal.read):
        with pytest.raises(JournalError, match=r"line 2 is damaged|was written by"):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_long_file_is_taken_up_in_constant_memory(tmp_path: Path) -> None:
    heading, *some = hostile._rows().splitlines(True)
    peaks = []
    for times in (100, 1000):
        path = written(tmp_path, heading + b"".join(some) * times)
        tracemalloc.start()
        assert resumed(path) == 3 * times
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 16)
    assert path.stat().st_size > 1 << 19


def test_a_disk_that_runs_full_costs_the_torn_row_alone(tmp_path: Path) -> None:
    _, first, second, third = hostile._rows().decode().splitlines(True)
    path = tmp_path / "x.csv"
    with journal.Journal(path, hostile.STAMP, lambda i: "", resume=False) as file:
        file.add(first)
        with (
            room(path.stat().st_size + 50),
            pytest.raises(
                JournalError, match="disk full; make room, then use --resume"
            ),
        ):
            file.add(second)
        with room(100), pytest.raises(JournalError, match="File too large; make room"):
            file.add(second)
    with journal.Journal(path, hostile.STAMP, lambda i: "", resume=True) as file:
        assert file.done == 1
        file.add(second)
        file.add(third)
    assert path.read_bytes() == hostile._rows()


def test_parts_become_one_file_only_if_all_are_whole(tmp_path: Path) -> None:
    """Row by row, in the order of the sweep; a damaged one is named."""
    heading, *some = hostile._rows().splitlines(True)
    whole = tmp_path / "x.csv"
    parts = [journal.part(whole, i, 2) for i in range(2)]
    owners = [0, 1, 0]
    assert not journal.merge(whole, parts, owners)
    parts[0].write_bytes(heading + some[0] + some[2])
    for half in (b"", heading, heading + some[1][:-1], heading + some[1] + b"7"):
        parts[1].write_bytes(half)
        assert not journal.merge(whole, parts, owners)
    parts[1].write_bytes(heading + some[1].replace(b"1007", b"1008", 1))
    with pytest.raises(JournalError, match="part-1-of-2: line 2 is damaged"):
        journal.merge(whole, parts, owners)
    assert sorted(tmp_path.iterdir()) == sorted(parts)
    parts[1].write_bytes(heading + some[1])
    assert journal.merge(whole, parts, owners)
    assert whole.read_bytes() == hostile._rows()
    assert list(tmp_path.iterdir()) == [whole]
    assert journal.merge(whole, parts, owners)


def test_rows_are_one_line_each() -> None:
    assert rows.heading().count("\n") == 1
    assert len(hostile._rows().splitlines()) == 4
