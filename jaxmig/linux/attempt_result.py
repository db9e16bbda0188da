"""What the tests of one attempt found, in one word: what comes of it follows from that.

XLA:CPU would run all tests again for each value that depends on them.
"""

import dataclasses
from typing import Any, Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.folio import PIN_HELD, pin_refs
from jaxmig.state import conditions as cond

RC: Final = 0b111  # a result of folio.py
FLAGS: Final = 3  # lowest bit of the flags behind it
NAMES: Final = (
    "freed",  # only its isolation held it
    "tried",  # a destination was allocated
    "walks",  # try_to_migrate() walks the entries
    "refuses",  # pinned and exclusive, so that this walk fails
    "drops",  # extra references have ended
    "unpins",  # a pin has ended
    "writes",  # the file system begins to write the page out
    "anew",  # the page was not written out by this attempt
)
WORN: Final = FLAGS + len(NAMES)  # a bit for each state that was counted down
OVER: Final = WORN + len(cond.STATES)  # and for each of SLEEPERS that is over

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
Words = tuple[Index, Index, Index, Index]


@dataclasses.dataclass(frozen=True)
class AttemptResult:
    """The word, of a folio or of a lane each of many."""

    word: Index

    @property
    def rc(self) -> Index:
        """How the attempt ended, see folio.py."""
        return self.word & RC

    def has(self, name: str) -> Flag:
        """Whether one of NAMES is so."""
        return self._bit(FLAGS + NAMES.index(name)) > 0

    def _bit(self, bit: int) -> Index:
        return (self.word >> bit) & 1

    def settled(self, words: Any, refs: Index, flags: Index) -> tuple[Words, Index]:
        """Conditions and references after the attempt.

        Args:
          words: int32 each, the folio's four words of conditions, see conditions.py.
          refs, flags: int32, its references and flags.
        Returns:
          The four words; the references.
        """
        fields, marks = list(words[: cond.WORDS - 1]), words[cond.WORDS - 1]
        for state in range(len(cond.STATES)):
            i, shift = divmod(state, cond.PER_WORD)
            fields[i] = fields[i] - (self._bit(WORN + state) << (cond.FIELD * shift))
        for bit, state in enumerate(cond.SLEEPERS):
            i, shift = divmod(state, cond.PER_WORD)
            field = cond.UNTIL_WAITED << (cond.FIELD * shift)
            over = self._bit(OVER + bit) > 0
            fields[i] = jnp.where(over, fields[i] & ~field, fields[i])
        i, shift = divmod(cond.WRITEBACK, cond.PER_WORD)
        field = cond.UNTIL_WAITED << (cond.FIELD * shift)
        fields[i] = jnp.where(self.has("writes"), fields[i] | field, fields[i])
        drop = jnp.where(self.has("drops"), marks >> cond.EXTRA_SHIFT, 0)
        refs = refs - drop - jnp.where(self.has("unpins"), pin_refs(flags), 0)
        marks = marks - (drop << cond.EXTRA_SHIFT)
        marks &= ~jnp.where(self.has("unpins"), PIN_HELD, 0)
        marks &= ~jnp.where(self.has("anew"), cond.WRITTEN_OUT, 0)
        written = marks & ~cond.UNWRITTEN | cond.WRITTEN_OUT
        marks = jnp.where(self.has("writes"), written, marks)
        return (fields[0], fields[1], fields[2], marks), refs


def bits(**found: Flag) -> Index:
    """A word of flags by their names."""
    word = jnp.int32(0)
    for name, flag in found.items():
        word = word | flag.astype(jnp.int32) << (FLAGS + NAMES.index(name))
    return word
