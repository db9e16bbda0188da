"""States that make an attempt fail or sleep: four words for each folio's head frame.

    word 0    locked, writeback, pinned, temp_stack     8 bits each, from the lowest
    word 1    extra_ref, buffers_locked, driver_eagain, driver_error
    word 2    private, huge_dst_unavailable, isolated
    word 3    marks: which states last for ever, what a file system has to write first,
              young, freed, released, isolated, a pin that is held, and how many extra
              references

A field says how many more tests find the folio in a state.  UNTIL_WAITED is not counted
down: the state ends when a task sleeps on it.  One that lasts for ever has the same
number and the mark `forever(state)`.

Source: the outcomes of one attempt, mm/migrate.c and mm/rmap.c, Linux 6.1 to 6.18.
"""

from typing import Any, Final

STATES: Final = (
    "locked",
    "writeback",
    "pinned",
    "temp_stack",
    "extra_ref",
    "buffers_locked",
    "driver_eagain",
    "driver_error",
    "private",
    "huge_dst_unavailable",
    "isolated",
)
(
    LOCKED,
    WRITEBACK,
    PINNED,
    TEMP_STACK,
    EXTRA_REF,
    BUFFERS_LOCKED,
    DRIVER_EAGAIN,
    DRIVER_ERROR,
    NO_MAPPING,
    NO_HUGE_DST,
    TAKEN,
) = range(len(STATES))
SLEEPERS: Final = (LOCKED, WRITEBACK, BUFFERS_LOCKED)  # those that a task sleeps on
FIELD: Final = 8  # bits
UNTIL_WAITED: Final = (1 << FIELD) - 1
WORDS: Final = 4
PER_WORD: Final = 4

UNWRITTEN: Final = 1 << 3  # dirty, of a file system without migrate_folio
WRITTEN_OUT: Final = 1 << 4  # by this attempt, and so mapped again
YOUNG: Final = 1 << 15  # entries have been referenced since reclaim last looked
FREED: Final = 1 << 16
RELEASED: Final = 1 << 17
ISOLATED: Final = 1 << 18
PIN_HELD: Final = 1 << 19  # a pin that counts as an extra reference
EXTRA_SHIFT: Final = 20  # how many references EXTRA_REF stands for


def forever(state: int) -> int:
    """The mark that sleeping on this state would never end; 0: Linux never does."""
    return 1 << SLEEPERS.index(state) if state in SLEEPERS else 0


def unpack(rows: Any) -> tuple[tuple[Any, ...], Any]:
    """Fields by state, and marks, of rows [..., 4]; for JAX and for numpy."""
    return unpack_words([rows[..., i] for i in range(WORDS)])


def unpack_words(words: Any) -> tuple[tuple[Any, ...], Any]:
    """The same of four arrays, one for each word, since slicing columns copies them."""
    fields = [
        (words[s // PER_WORD] >> (FIELD * (s % PER_WORD))) & UNTIL_WAITED
        for s in range(len(STATES))
    ]
    return tuple(fields), words[WORDS - 1]


def pack(fields: Any, marks: Any) -> list[Any]:
    """The four words of rows with these fields (a sequence by state) and marks."""
    words: list[Any] = [0, 0, 0, marks]
    for s in range(len(STATES)):
        words[s // PER_WORD] |= fields[s] << (FIELD * (s % PER_WORD))
    return words
