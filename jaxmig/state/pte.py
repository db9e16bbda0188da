"""One page-table entry, as two int32 words: the frame and the bits.

     31          16 15 14 13 12 11 10  9  8  7  6  5  4  3  2  1  0
    +--------------+--+--+--+--+--+-----+--+--+--+--+--+--+--+--+--+
    | mm           | Z|VP|VL|VW|H | kind|M |PN|X |U |S |D |Y |W |P |
    +--------------+--+--+--+--+--+-----+--+--+--+--+--+--+--+--+--+

    P  present            W  writable           Y  young (accessed)
    D  dirty              S  soft-dirty         U  uffd write-protected
    X  AnonExclusive of the page mapped here (a page flag in Linux; only one entry
       can map an exclusive page, so it is kept with the entry)
    PN PROT_NONE: present for Linux, not accessible for the hardware
    M  migration entry, with its kind: 1 read, 2 read-exclusive, 3 write; Y D S U are
       then the bits it carries
    H  a PMD leaf (2 MiB)
    VW VL VP  VM_WRITE, VM_LOCKED, PROT_NONE protection of the area around the entry:
       what remove_migration_pte() reads from the vma
    Z  the shared zero page: present, but of no folio
    mm the address space the entry belongs to; it never changes

Source: arch/x86/include/asm/pgtable_types.h, include/linux/swapops.h
(make_readable_migration_entry() and its two sisters), Linux 6.3.
"""

from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

PFN: Final = 0  # column of Machine.pte
BITS: Final = 1

PRESENT: Final = 1 << 0
WRITE: Final = 1 << 1
YOUNG: Final = 1 << 2
DIRTY: Final = 1 << 3
SOFT_DIRTY: Final = 1 << 4
UFFD_WP: Final = 1 << 5
EXCLUSIVE: Final = 1 << 6
PROT_NONE: Final = 1 << 7
MIGRATION: Final = 1 << 8
KIND_SHIFT: Final = 9
KIND: Final = 3 << KIND_SHIFT
HUGE: Final = 1 << 11
VM_WRITE: Final = 1 << 12
VM_LOCKED: Final = 1 << 13
VM_PROT_NONE: Final = 1 << 14
ZERO_PAGE: Final = 1 << 15
MM_SHIFT: Final = 16
MAX_MM: Final = (1 << 15) - 1

READ, READ_EXCLUSIVE, WRITABLE = (k << KIND_SHIFT for k in (1, 2, 3))
STAYS: Final = HUGE | VM_WRITE | VM_LOCKED | VM_PROT_NONE | (MAX_MM << MM_SHIFT)
CARRIED: Final = YOUNG | DIRTY | SOFT_DIRTY | UFFD_WP

Bits = Int32[Array, "*lanes"]


def mm_of(bits: Bits) -> Bits:
    """The address space of an entry."""
    return bits >> MM_SHIFT


def has(bits: Bits, flag: int) -> Bool[Array, "*lanes"]:
    """Whether any bit of `flag` is set."""
    return (bits & flag) != 0


def accessible(bits: Bits) -> Bool[Array, "*lanes"]:
    """pte_accessible(): a TLB may hold it.  PROT_NONE entries never enter one."""
    return (bits & (PRESENT | PROT_NONE)) == PRESENT


def empty(bits: Bits) -> Bits:
    """An entry that maps nothing: pte_none(), with the bits of its place and area."""
    return bits & STAYS


def zero(bits: Bits) -> Bits:
    """An entry of the shared zero page that replaces another entry."""
    return empty(bits) | PRESENT | ZERO_PAGE


def to_migration(bits: Bits) -> Bits:
    """The migration entry that replaces a present entry (try_to_migrate_one())."""
    shared = jnp.where(has(bits, EXCLUSIVE), READ_EXCLUSIVE, READ)
    kind = jnp.where(has(bits, WRITE), WRITABLE, shared)
    return (bits & (STAYS | CARRIED)) | MIGRATION | kind


def from_migration(
    bits: Bits, anon: Bool[Array, "*lanes"], dirty: Bool[Array, "*lanes"]
) -> Bits:
    """The present entry that a migration entry becomes (remove_migration_pte()).

    `anon` and `dirty` are the folio's.  The dirty bit is restored only if the folio is
    dirty, too; PROT_NONE only if the area is (mprotect()), not for a NUMA hint.
    """
    kind = bits & KIND
    writable = (kind == WRITABLE) & has(bits, VM_WRITE)
    wp = jnp.where(kind == WRITABLE, bits & ~UFFD_WP, bits)
    new = (wp & (STAYS | YOUNG | SOFT_DIRTY | UFFD_WP)) | PRESENT
    new |= jnp.where(writable, WRITE, 0)
    new |= jnp.where(dirty, bits & DIRTY, 0)
    new |= jnp.where(anon & (kind != READ), EXCLUSIVE, 0)
    return new | jnp.where(has(bits, VM_PROT_NONE), PROT_NONE, 0)
