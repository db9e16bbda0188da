"""A machine laid out on the device is the Builder's, and its TLBs are warm."""

import jax
import jaxmig
import numpy as np
import pytest
from jaxmig.sources import uniform
from jaxmig.state import pte
from jaxmig.state.machine import NOWHERE


def built(pages: int, cpus: int, seed: int | None) -> jaxmig.Machine:
    b = jaxmig.Builder(nodes=2, cpus=cpus)
    b.mmap(b.process("app", running=range(1, cpus)), pages)
    return b.build(seed=seed)


@pytest.mark.parametrize("pages", [1, 1000, 1024, 2000, 5000])
@pytest.mark.parametrize("seed", [None, 0, 7])
def test_bit_for_bit_what_a_builder_makes(pages, seed):
    ours = uniform.machine(pages, cpus=4, seed=seed, warm=False)
    theirs = built(pages, 4, seed)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    leaves = jax.tree.leaves_with_path(ours)
    for (path, a), b in zip(leaves, jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=str(path))


@pytest.mark.parametrize("pages", [40, 1000, 4096])
def test_warm_tlbs_hold_translations_of_the_process(pages):
    m = uniform.machine(pages, cpus=3, content=False, tlb=(16, 4))
    held = np.asarray(m.tlb.entry).reshape(16, 3, 4)
    assert (held[:, 0] == NOWHERE).all()
    full = held[:, 1:] != NOWHERE
    assert full.mean() == min(pages / 64, 1)
    for cpu in (1, 2):
        entries = held[:, cpu][full[:, cpu - 1]]
        assert np.unique(entries).size == entries.size
    sets = np.broadcast_to(np.arange(16)[:, None, None], held.shape)
    np.testing.assert_array_equal(held[:, 1:][full] % 16, sets[:, 1:][full])
    there = np.asarray(m.tlb.entry) != NOWHERE
    at = np.asarray(m.tlb.entry)[there]
    np.testing.assert_array_equal(m.tlb.pfn[there], m.pte[at, pte.PFN])
    assert (np.asarray(m.tlb.bits)[there] == pte.WRITE | pte.DIRTY).all()


def test_machines_of_one_bucket_share_their_shapes():
    small, large = (uniform.machine(n, content=False) for n in (4097, 5120))
    shapes = [[x.shape for x in jax.tree.leaves(m)] for m in (small, large)]
    assert shapes[0] == shapes[1]
    assert small.geometry == large.geometry


@pytest.mark.parametrize("pages", [0, 2**31 - 1])
def test_sizes_that_cannot_be(pages):
    with pytest.raises(ValueError, match="pages"):
        uniform.machine(pages)
