"""All pages of a serial call at once leave what the loop leaves, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from jaxmig import frame, migrate
from jaxmig.machine import Machine
from jaxmig.policy import serial_lanes, serial_pages
from jaxmig.rules import rules
from test_invariants_engine import warm

PAGES = 700


def machine(here: int = 0) -> tuple[Machine, np.ndarray]:
    """Two processes, a lazy CPU, files and PROT_NONE; `here` pages on the target node."""
    b = jaxmig.Builder(nodes=2, cpus=6, tlb=(32, 4))
    one = b.process("one", running=[1, 2], lazy=[3])
    two = b.process("two", running=[0, 4])
    b.mmap(one, 400)
    b.mmap(two, 200, kind="file", prot_none=True)
    b.mmap(two, 100 - here, kind="shmem")
    if here:
        b.mmap(two, here, node=1)
    m = warm(b.build(seed=3))
    rows = np.asarray(m.frame)
    heads = np.flatnonzero(rows[:, frame.FLAGS] & frame.KIND)
    return m, np.random.default_rng(5).permutation(heads).astype(np.int32)


@functools.cache
def played(how: str, kernel: str, arch: str):
    """The call, jitted, as a loop or as lanes."""
    r = rules(kernel, arch=arch)
    form = {
        "loop": serial_pages.migrate_serial_pages,
        "lanes": serial_lanes.migrate_serial,
    }

    @jax.jit
    def run(m, folios, size, node, cpu):
        k, at = migrate._begin(m, folios, size, node, cpu, 0)
        k = form[how](r, k, at)
        return k.m, migrate.answer(k.ev, k.stats, k.remaining, k.error), k.todo.size

    return run


def both(m: Machine, folios: np.ndarray, cpu: int = 0, *, kernel="6.2", arch="x86"):
    """Whether lanes did it; the two must agree in every word."""
    room = np.zeros(1 << 10, np.int32)
    room[: len(folios)] = folios
    args = (m, room, *(jnp.int32(n) for n in (len(folios), 1, cpu)))
    a = played("loop", kernel, arch)(*args)
    b = played("lanes", kernel, arch)(*args)
    for (path, x), y in zip(
        jax.tree.leaves_with_path(a[:2]), jax.tree.leaves(b[:2]), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=f"{path}")
    return int(b[2]) == 0, a[1]


@pytest.mark.parametrize("kernel", ["6.1", "6.2"])
@pytest.mark.parametrize("arch", ["x86", "arm64"])
@pytest.mark.parametrize("cpu", [0, 2, 3, 5])
def test_clean_pages_move_at_once(kernel, arch, cpu):
    at_once, result = both(*machine(), cpu, kernel=kernel, arch=arch)
    assert at_once
    assert result.vmstat["pgmigrate_success"] == PAGES
    if arch == "x86":
        assert result.vmstat["nr_tlb_remote_flush"] > 0


def test_pages_of_nobody_and_freed_ones():
    m, folios = machine()
    rows = np.array(m.frame)
    # The owner is gone, and so is the last reference.
    rows[folios[:5], :2] = 0
    entries = np.array(m.pte)
    entries[rows[folios[:5], frame.RMAP]] = [jaxmig.machine.NOWHERE, 0]
    rows[folios[:5], frame.RMAP] = jaxmig.machine.NOWHERE
    m = warm(migrate.replace(m, frame=jnp.asarray(rows), pte=jnp.asarray(entries)))
    at_once, result = both(m, folios)
    assert at_once
    assert result.events.counts()["folios_moved"] == PAGES - 5


@pytest.mark.parametrize("what", ["reference", "home", "memory"])
def test_whatever_couples_pages_goes_through_the_loop(what):
    m, folios = machine(here=10 * (what == "home"))
    if what == "reference":
        m = migrate.replace(m, frame=m.frame.at[folios[3], frame.REFCOUNT].add(1))
    if what == "memory":
        m = migrate.replace(m, nfree=m.nfree.at[1].set(PAGES - 1))
    at_once, result = both(m, folios)
    assert not at_once
    assert (result.ret == 0) == (what == "home")
    assert bool(result.errno) == (what == "memory")


@pytest.mark.parametrize("pages", [0, 1, 300])
def test_an_empty_or_short_list(pages):
    m, folios = machine()
    at_once, result = both(m, folios[:pages])
    assert at_once
    assert result.vmstat["pgmigrate_success"] == pages
