"""`jaxmig explain` draws what the engine does; its text is kept in tests/data."""

import os
from pathlib import Path

import pytest
from jaxmig import cli
from jaxmig.tools import explain
from jaxmig.tools.picture import Picture

GOLDEN = Path(__file__).parent / "data/explain.txt"


@pytest.fixture(scope="module")
def told() -> str:
    return "\n\n".join(explain.explain()) + "\n"


def test_the_text_is_as_it_was(told: str) -> None:
    if os.environ.get("JAXMIG_WRITE_GOLDEN"):
        GOLDEN.write_text(told, "utf-8")
    assert told == GOLDEN.read_text("utf-8")


def test_it_fits_a_terminal_and_has_every_step(told: str) -> None:
    assert max(map(len, told.splitlines())) <= 80
    for step in ("unmap", "flush", "copy", "remap"):
        assert told.count(f": {step}\n") == 1 + 2  # serial, two batches
    assert "so far 16 flush requests and 48 interrupts" in told
    assert "so far 2 flush requests and 6 interrupts" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_the_last_drawing_is_the_state_after_the_call(kernel: str) -> None:
    m = explain._machine(16)
    tour = explain._Tour(m, kernel, 16, 8, 80, False)
    list(tour.steps())
    call = explain.migrate_pages
    after, _ = call(m, tour.heads, 1, kernel=kernel, batch=8)
    assert tour.before.rows[1] == Picture(after, 16).rows[1]
    assert tour.before.memory == Picture(after, 16).memory


def test_narrow_terminals_get_more_lines_and_colour_is_asked_for() -> None:
    m = explain._machine(16)
    picture = Picture(m, 16)
    text = picture.text(width=45)
    assert max(map(len, text.splitlines())) <= 45
    assert text.count("page table") == 2
    other = Picture(m, 16)
    other.rows[1] = ("page table", [*other.rows[1][1][:-1], "*f"])
    drawn = other.text(width=80, before=picture)
    assert drawn.count("\x1b[1m") == 1
    assert "\x1b[1m  *f\x1b[0m" in drawn


@pytest.mark.parametrize("bad", [{"pages": 0}, {"pages": 65}, {"batch": 0}])
def test_sizes_that_nobody_could_read_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give 1 to 64"):
        list(explain.explain(**bad))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--kernel", "6.3", "--pages", "16", "--batch", "8"]
    assert cli.main(["explain", *options]) == 0
    out = capsys.readouterr().out
    assert "Linux 6.3: 2 batches of 8" in out
    assert "6.2" not in out
    assert cli.main(["explain", "--pages", "99"]) == 2
