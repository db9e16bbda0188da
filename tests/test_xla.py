"""Compiled programs: what is kept, what is given back, how short ones are compiled."""

import jax
import jax.numpy as jnp
import jaxlib
import jaxmig
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxmig.engine import migrate
from jaxmig.linux.rules import rules
from jaxmig.state import xla


def test_programs_not_used_lately_are_given_back(monkeypatch) -> None:
    monkeypatch.setattr(xla, "KEPT", 2)
    monkeypatch.setattr(xla, "_kept", {})
    double = xla.Program(lambda x: x * 2)
    before = xla.compilations()
    for size in (8, 16, 8, 24):
        assert double(jnp.ones(size, jnp.int32)).sum() == 2 * size
    assert xla.compilations() - before == 3
    # 16 was used longest ago; 8 and 24 are still here.
    double(jnp.ones(8, jnp.int32))
    double(jnp.ones(24, jnp.int32))
    assert xla.compilations() - before == 3
    double(jnp.ones(16, jnp.int32))
    assert xla.compilations() - before == 4


def test_programs_are_given_back_before_the_process_runs_out_of_mappings(
    monkeypatch,
) -> None:
    """Linux ends a process that asks for one mapping too many while LLVM compiles."""
    taken = iter((0, 300, 300, 700, 700, 1200, 1200, 1300))
    monkeypatch.setattr(xla, "MAPPINGS", 1000)
    monkeypatch.setattr(xla, "_mappings", lambda: next(taken))
    monkeypatch.setattr(xla, "_kept", {})
    double = xla.Program(lambda x: x * 2)
    kept = []
    for size in (8, 16, 24, 32):
        double(jnp.ones(size, jnp.int32))
        kept.append([mappings for _, mappings in xla._kept.values()])
    assert kept == [[300], [300, 400], [400, 500], [400, 500, 100]]


def test_a_compiled_program_counts_its_mappings(monkeypatch) -> None:
    monkeypatch.setattr(xla, "_kept", {})
    double = xla.Program(lambda x: x * 2)
    held = [double.executable(jnp.ones(8 * n, jnp.int32)) for n in range(1, 9)]
    if xla._mappings():
        assert sum(mappings for _, mappings in xla._kept.values()) >= len(held)


def test_a_program_in_use_outlives_its_place(monkeypatch) -> None:
    monkeypatch.setattr(xla, "KEPT", 1)
    double = xla.Program(lambda x: x * 2)
    ones = jnp.ones(8, jnp.int32)
    held = double.executable(ones)
    double(jnp.ones(16, jnp.int32))
    assert (np.asarray(held(ones)) == 2).all()


def test_only_programs_that_work_on_few_rows_are_compiled_quickly(monkeypatch) -> None:
    """They may stand in longer arrays, which are the first argument."""
    asked = []
    jitted = xla.Program.jitted

    def spy(self, on=True, short=False, gpu=None):
        asked.append(short)
        return jitted(self, on, short, gpu)

    monkeypatch.setattr(xla.Program, "jitted", spy)
    short, few, room = xla.SHORT, xla.FEW, xla.FEW_BYTES // 4
    sizes = [(short, short), (short, short + 1)]
    sizes += [(room, few), (room, few + 1), (room + 1, few)]
    for state, worked in sizes:
        arrays = (jnp.zeros(n, jnp.int32) for n in (state, worked))
        xla.Program(lambda x, y: x[0] + y)(*arrays)
    assert asked == [True, False, True, False, False]


def test_a_list_is_as_many_rows_as_its_folios_have_pages(monkeypatch) -> None:
    """Whatever it is padded to."""
    asked = []
    monkeypatch.setattr(xla, "_kept", {})
    monkeypatch.setattr(
        xla.Program, "_compile", lambda self, args, few: asked.append(few)
    )
    for order in (0, 9):
        b = jaxmig.Builder(nodes=2, cpus=2)
        b.mmap(b.process("p", running=[1]), xla.FEW * 2, order=order)
        m = b.build(content=False)
        heads = jaxmig.folios_on(m, 0)
        for more in (0, 1):
            listed = heads[: (xla.FEW >> order) + more]
            migrate.executable(rules("6.3"), False, *migrate.checked(m, listed, 1)[0])
    assert asked == [True, False] * 2


def test_this_jaxlib_has_every_option_that_is_asked_for() -> None:
    """XLA refuses a whole program for one option that it does not have."""
    known = xla.known() and jax.default_backend() == "cpu"
    assert bool(xla.quick_options()) == known
    asked = xla.CPU_OPTIONS | xla.quick_options()
    assert len(asked) == 2 + known * (2 + len(xla.TESTED.get(jaxlib.__version__, {})))
    twice = jax.jit(lambda x: x + x, compiler_options=asked)
    assert int(twice(jnp.int32(21))) == 42


def test_a_function_runs_on_the_devices_of_a_mesh() -> None:
    """Under whatever name this JAX has it; a loop hides that the sum is replicated."""
    mesh = Mesh(jax.devices()[:1], ("pages",))

    def add(part: jax.Array) -> jax.Array:
        def step(_: int, total: jax.Array) -> jax.Array:
            return total + jax.lax.psum(part.sum(), "pages")

        return jax.lax.fori_loop(0, 3, step, jnp.int32(0))

    added = xla.shard_map(add, mesh, P("pages"), P())
    assert int(jax.jit(added)(jnp.arange(8))) == 3 * 28


def test_programs_are_kept_only_where_they_come_back_as_they_were() -> None:
    """test_lanes compares copies by a program that is read back where it is kept."""
    assert xla.CAN_KEEP or not jax.config.jax_enable_compilation_cache
    tested = jaxlib.__version__ in xla.TESTED
    assert xla.CAN_KEEP or not tested
