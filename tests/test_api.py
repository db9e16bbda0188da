"""The library as its users call it: pure, traceable, quiet on import."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from jaxmig.state import events, xla
from jaxmig.state.buckets import bucket


def machine(pages: int = 40, free: int | None = None) -> jaxmig.Machine:
    b = jaxmig.Builder(nodes=2, cpus=4, free=[None, free])
    b.mmap(b.process("app", running=[1, 2, 3]), pages=pages)
    return b.build(seed=3)


def leaves(state: jaxmig.Machine) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_a_call_is_pure_and_the_same_under_jit(kernel: str) -> None:
    state = machine()
    before = leaves(state)
    folios = jnp.asarray(jaxmig.folios_on(state, 0))
    eager, result = jaxmig.migrate_pages(state, folios, 1, kernel=kernel)
    assert all((a == b).all() for a, b in zip(before, leaves(state), strict=True))
    jitted = jax.jit(
        lambda s, f: jaxmig.migrate_pages(s, f, 1, kernel=kernel),
        compiler_options=xla.quick_options(),
    )
    traced, again = jitted(state, folios)
    assert all(
        (a == b).all() for a, b in zip(leaves(eager), leaves(traced), strict=True)
    )
    assert result.events.counts() == again.events.counts()


def test_machines_batch_limits_and_cpus_map_under_vmap() -> None:
    state = machine()
    folios = jnp.asarray(jaxmig.folios_on(state, 0))

    def count(batch, cpu):
        after, result = jaxmig.migrate_pages(
            state, folios, 1, kernel="6.3", batch=batch, cpu=cpu
        )
        return after.nfree, result

    batches, cpus = jnp.asarray([1, 8, 0]), jnp.asarray([0, 0, 1])
    # A part of the caller's program: outside of jit each operation would be compiled.
    assert len(jax.make_jaxpr(jax.vmap(count))(batches, cpus).eqns) < 20
    counted = jax.jit(jax.vmap(count), compiler_options=xla.quick_options())
    nfree, results = counted(batches, cpus)
    for i, (batch, cpu) in enumerate([(1, 0), (8, 0), (0, 1)]):
        _, one = jaxmig.migrate_pages(
            state, folios, 1, kernel="6.3", batch=batch, cpu=cpu
        )
        mapped = jax.tree.map(lambda x, i=i: x[i], results)
        assert mapped.vmstat == one.vmstat
        assert mapped.events.ipis_per_cpu() == one.events.ipis_per_cpu()
    assert (nfree == nfree[0]).all()


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_what_fits_is_moved_when_memory_ends(kernel: str) -> None:
    state = machine(free=25)
    after, result = jaxmig.migrate_pages(
        state, jaxmig.folios_on(state, 0), 1, kernel=kernel, batch=8
    )
    assert result.errno == "ENOMEM"
    assert jaxmig.pages_by_node(after) == [15, 25]
    assert result.vmstat["pgmigrate_fail"] == 1


def test_there_and_back_restores_contents_and_nodes() -> None:
    state = machine()
    home = jaxmig.folios_on(state, 0)
    there, _ = jaxmig.migrate_pages(state, home, 1, kernel="6.3")
    back, _ = jaxmig.migrate_pages(there, jaxmig.folios_on(there, 1), 0, kernel="6.2")
    assert jaxmig.pages_by_node(back) == [40, 0]
    for entry in range(40):
        old, new = (np.asarray(s.pte)[entry, 0] for s in (state, back))
        assert (np.asarray(state.memory[old]) == np.asarray(back.memory[new])).all()


def test_an_empty_list_is_no_work() -> None:
    _, result = jaxmig.migrate_pages(machine(), [], 1, kernel="6.3")
    assert result.ret == 0
    assert result.events.counts()["batches"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": "5.4"}, "kernel '5.4': not modelled"),
        ({"mode": "lazy"}, "mode 'lazy'"),
        ({"reason": "fun"}, "reason 'fun'"),
        ({"arch": "riscv"}, "arch 'riscv'"),
    ],
)
def test_what_is_not_modelled_is_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        jaxmig.migrate_pages(machine(), [0], 1, **change)


def test_counters_pass_two_to_the_thirty_two() -> None:
    ev = events.none(2)
    for _ in range(3):
        ev = ev.add(ipis_batch=np.uint32(3_000_000_000))
        ev = ev.interrupt(jnp.asarray([2**31 + 5, 1], jnp.uint32))
    assert ev.counts()["ipis_batch"] == 9_000_000_000
    shares = np.asarray([2**32 - 1, 2**16, 0, 2**31 + 1] * 9, np.uint32)
    for _ in range(3):
        ev = ev.add_sum("ipis_immediate", shares)
    assert ev.counts()["ipis_immediate"] == 3 * shares.sum(dtype=np.int64)
    assert ev.ipis_per_cpu() == [3 * (2**31 + 5), 3]


def test_import_starts_no_backend_and_changes_no_setting() -> None:
    code = (
        "import jax; before = dict(jax.config.values)\n"
        "import jaxmig\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a backend was started'\n"
        "assert dict(jax.config.values) == before, 'a setting was changed'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_size_in_the_same_bucket_compiles_nothing() -> None:
    assert bucket(1001, 64) == bucket(1020, 64)
    shapes = [
        jax.tree.map(lambda x: (x.shape, x.dtype), machine(pages)) for pages in (30, 41)
    ]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])


@pytest.mark.parametrize("node", [-1, 2, np.int64(9)])
def test_a_node_that_is_not_there_is_refused(node) -> None:
    with pytest.raises(ValueError, match=f"node {node}: the machine has 2 nodes"):
        jaxmig.migrate_pages(machine(), [0], node)
