"""A serial call in windows and folio by folio: both leave the same."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from jaxmig.engine import migrate
from jaxmig.engine.migrate import Result
from jaxmig.linux.rules import from_word, rules, word
from jaxmig.state import frame, pte, xla
from jaxmig.state.machine import NOWHERE, Machine
from test_invariants_engine import warm

PAGES = 700
ROOM = 1 << 10
FORMS = ("windows", "in order")


def machine(here: int = 0, held: bool = False) -> tuple[Machine, np.ndarray]:
    """Two processes, a lazy CPU, files and PROT_NONE.

    Args:
      here: pages that lie on the target node already.
      held: one page of a hundred is held for a while, another one for ever.
    """
    b = jaxmig.Builder(nodes=2, cpus=6, tlb=(32, 4))
    one = b.process("one", running=[1, 2], lazy=[3])
    two = b.process("two", running=[0, 4])
    heap = b.mmap(one, 400)
    b.mmap(two, 200, kind="file", prot_none=True)
    b.mmap(two, 100 - here, kind="shmem")
    if here:
        b.mmap(two, here, node=1)
    if held:
        b.condition(heap, "extra_ref", range(0, 400, 100))
        b.condition(heap, "locked", range(50, 400, 100), until="waited")
        b.condition(heap, "pinned", range(70, 400, 100), until=3)
    m = warm(b.build(seed=3, headroom=here > 0))
    rows = np.asarray(m.frame)
    heads = np.flatnonzero(rows[:, frame.FLAGS] & frame.KIND)
    return m, np.random.default_rng(5).permutation(heads).astype(np.int32)


@functools.cache
def played(form: str, arch: str, tricks: bool = True) -> Any:
    """The call in one form; its last argument is its rules."""
    defers = rules("6.2", arch=arch).defers

    def call(m: Any, folios: Any, size: Any, node: Any, cpu: Any, bits: Any) -> Any:
        r, limit = from_word(bits, defers), migrate.limit_of(0)
        if form == "in order":
            return migrate.in_order(m, folios, size, node, cpu, limit, r)
        return migrate.run(m, folios, size, node, cpu, limit, r)

    # As a call on few rows is.
    return xla.Program(call).jitted(tricks, short=True)


Played = tuple[Machine, Result]


def play(
    m: Machine,
    folios: np.ndarray,
    cpu: int = 0,
    *,
    kernel: str = "6.2",
    arch: str = "x86",
) -> list[Played]:
    """The call in several forms."""
    room = np.zeros(ROOM, np.int32)
    room[: len(folios)] = folios
    numbers = (jnp.int32(n) for n in (len(folios), 1, cpu))
    args = (m, room, *numbers, jnp.asarray(word(rules(kernel, arch=arch))))
    made = [played(form, arch)(*args) for form in FORMS]
    assert int(made[1][1].in_order) == len(folios)
    return made


def in_windows(result: Result) -> bool:
    """Whether all folios had one."""
    return int(result.in_order) == 0


def counts(result: Result) -> dict[str, Any]:
    """All that was counted."""
    return {
        "failed": int(result.failed),
        "error": int(result.error),
        "ipis": result.events.ipis_per_cpu(),
        **result.events.counts(),
    }


def usable(m: Machine) -> np.ndarray:
    """The TLBs without those of CPUs that will drop everything before they use any."""
    c, entry = m.cpus, np.asarray(m.tlb.entry)
    loaded = np.clip(np.asarray(c.mm), 0, c.mm_gen.shape[0] - 1)
    behind = np.asarray(c.gen) != np.asarray(c.mm_gen)[loaded]
    ways = entry.shape[1] // len(behind)
    return np.where(np.repeat(behind, ways), NOWHERE, entry)


def picture(m: Machine) -> dict[str, np.ndarray]:
    """The machine as its processes see it: frames have no numbers."""
    words, rows = np.asarray(m.pte), np.asarray(m.frame)
    there = (words[:, pte.BITS] & (pte.PRESENT | pte.MIGRATION)) != 0
    pfn = np.where(there, words[:, pte.PFN], 0)
    kept = {
        "there": there,
        "bits": words[:, pte.BITS],
        "node": np.where(there, pfn // m.geometry.frames_per_node, -1),
        "rows": np.where(there[:, None], rows[pfn], 0),
        "contents": np.where(there[:, None], np.asarray(m.memory)[pfn], 0),
        "nfree": np.asarray(m.nfree),
        "blank": (rows == [0, 0, 0, NOWHERE]).all(axis=1).sum(),
        "tlb": usable(m),
        "mask": np.asarray(m.cpus.mask),
        "mm": np.asarray(m.cpus.mm),
    }
    if m.conditions is not None:
        rows = np.asarray(m.conditions)
        kept["conditions"] = np.where(there[:, None], rows[pfn], 0)
    return kept


def same_picture(made: list[Played]) -> Result:
    """All forms leave the same to the processes, and count the same."""
    (first, result), *others = made
    for m, other in others:
        assert counts(other) == counts(result)
        for name, value in picture(first).items():
            np.testing.assert_array_equal(picture(m)[name], value, err_msg=name)
    return result


def same_words(made: list[Played]) -> Result:
    """All forms leave the same in every word, but for what is over with the call.

    Generations only tell who is behind; what a lazy CPU holds it will drop; and an empty
    TLB slot is empty whatever else it says.
    """
    result = same_picture(made)
    first, *others = [m for m, _ in made]
    for m in others:
        for name in ("frame", "memory", "pte", "rmap_next", "top", "nfree"):
            a, b = (np.asarray(getattr(x, name)) for x in (first, m))
            np.testing.assert_array_equal(a, b, err_msg=name)
        for node in range(m.geometry.nodes):
            # Above its top a stack holds nothing.
            start, top = node * m.geometry.slots_per_node, int(m.top[node, 0])
            a, b = (np.asarray(x.free)[start : start + top] for x in (first, m))
            np.testing.assert_array_equal(a, b, err_msg="free")
    return result


def same_leaves(a: Any, b: Any) -> None:
    """The same in every word, generations too."""
    for (path, x), y in zip(
        jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        if "free" not in str(path[0]):
            np.testing.assert_array_equal(x, y, err_msg=str(path))


@pytest.mark.parametrize("kernel", ["6.1", "6.2"])
@pytest.mark.parametrize("arch", ["x86", "arm64"])
@pytest.mark.parametrize("cpu", [0, 2, 3, 5])
def test_clean_pages_move_at_once(kernel, arch, cpu) -> None:
    made = play(*machine(), cpu, kernel=kernel, arch=arch)
    result = same_words(made)
    assert in_windows(result)
    assert result.vmstat["pgmigrate_success"] == PAGES
    if arch == "x86":
        assert result.vmstat["nr_tlb_remote_flush"] > 0


def test_pages_of_nobody_and_freed_ones() -> None:
    m, folios = machine()
    rows = np.array(m.frame)
    # The owner is gone, and so is the last reference.
    rows[folios[:5], :2] = 0
    entries = np.array(m.pte)
    entries[rows[folios[:5], frame.RMAP]] = [NOWHERE, 0]
    rows[folios[:5], frame.RMAP] = NOWHERE
    m = warm(migrate.replace(m, frame=jnp.asarray(rows), pte=jnp.asarray(entries)))
    result = same_words(play(m, folios))
    assert in_windows(result)
    assert result.events.counts()["folios_moved"] == PAGES - 5


@pytest.mark.parametrize("arch", ["x86", "arm64"])
def test_pages_that_stay_have_windows_too(arch) -> None:
    # One of a hundred, as a reference more that nobody gives back.
    m, folios = machine()
    stay = folios[3::100]
    m = migrate.replace(m, frame=m.frame.at[stay, frame.REFCOUNT].add(1))
    result = same_words(play(m, folios, arch=arch))
    assert in_windows(result)
    assert result.ret == len(stay) == PAGES // 100
    assert result.vmstat["pgmigrate_success"] == PAGES - len(stay)


def test_pages_that_are_held_for_a_while_have_windows_too() -> None:
    # They move in a later pass, after all others: other frames, the same picture.
    m, folios = machine(held=True)
    result = same_picture(play(m, folios))
    assert in_windows(result)
    assert result.ret == 4
    assert result.vmstat["pgmigrate_success"] == PAGES - 4


def test_pages_that_are_there_already_have_windows_too() -> None:
    result = same_picture(play(*machine(here=10)))
    assert in_windows(result)
    assert result.ret == 0
    assert result.vmstat["pgmigrate_success"] == PAGES


@pytest.mark.parametrize("stays", [False, True])
def test_when_memory_ends_pages_go_in_order(stays: bool) -> None:
    m, folios = machine()
    m = migrate.replace(m, nfree=m.nfree.at[1].set(PAGES - 9))
    if stays:
        m = migrate.replace(m, frame=m.frame.at[folios[3], frame.REFCOUNT].add(1))
    result = same_words(play(m, folios))
    assert int(result.in_order) == PAGES
    assert result.errno == "ENOMEM"
    assert result.vmstat["pgmigrate_success"] == PAGES - 9


@pytest.mark.parametrize("pages", [0, 1, 300])
def test_an_empty_or_short_list(pages) -> None:
    m, folios = machine()
    result = same_words(play(m, folios[:pages]))
    assert in_windows(result)
    assert result.vmstat["pgmigrate_success"] == pages


def test_what_compiles_without_tricks_is_the_same() -> None:
    m, folios = machine()
    m = migrate.replace(m, frame=m.frame.at[folios[3::100], frame.REFCOUNT].add(1))
    args = (m, np.resize(folios, ROOM), *(jnp.int32(n) for n in (PAGES, 1, 0)))
    bits = jnp.asarray(word(rules("6.2")))
    on, off = (
        played("windows", "x86", tricks)(*args, bits) for tricks in (True, False)
    )
    same_leaves(on, off)
