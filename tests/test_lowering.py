"""Every kernel lowers for other accelerators, without callbacks and 64-bit numbers."""

import contextlib
import functools
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from jax import export
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec as P
from jaxmig.engine import migrate
from jaxmig.engine.shard import call as shard_call
from jaxmig.engine.shard.sharded import DEALT, plan_of
from jaxmig.linux.rules import rules, word
from jaxmig.programs.workloads.streams import Streams, fixed
from jaxmig.state import xla
from jaxmig.time import machines
from jaxmig.time.access import Shape, Stream
from jaxmig.time.timeline import Run, costs_of, timetable
from jaxmig.time.timeline.advance import compiled as timeline_of
from jaxmig.tools.sweep.program import SLOTS, program_of

PAGES = 1024


@functools.cache
def machine(what: str) -> jaxmig.Machine:
    """Nothing runs here: one serves all tests."""
    b = jaxmig.Builder(nodes=2, cpus=4)
    one = b.process("one", running=[1, 2])
    other = b.process("other", running=[3])
    if what == "large":
        b.mmap(one, PAGES, order=9)
    region = b.mmap([one, other] if what == "shared" else one, PAGES)
    if what == "conditions":
        b.condition(region, "locked", [3])
    b.splits = what == "large"
    return b.build(content=True)


ACCELERATORS = ("cuda", "tpu")
# Since 0.11 JAX's own scan counts its trips in 64 bits, whatever the program says: from
# there on only arrays are looked at.
SIZES = "*" if jax.__version_info__ < (0, 11) else "+"


LATER: Any = importlib.import_module("jax.sharding")  # names that jax 0.6 lacks
TRITON = "__gpu$xla.gpu.triton"  # what a kernel of Pallas becomes


def module(jitted: Any, *args: Any) -> str:
    """The program for both accelerators, as text."""
    return export.export(jitted, platforms=ACCELERATORS)(*args).mlir_module()


def gpus(count: int, axis: str) -> AbstractMesh:
    """GPUs that are not here: since 0.11 JAX asks which, to lower Triton's kernels."""
    if jax.__version_info__ < (0, 11):
        return AbstractMesh((count,), (axis,))
    device = LATER.AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
    kinds = (LATER.AxisType.Auto,)
    return AbstractMesh((count,), (axis,), axis_types=kinds, abstract_device=device)


def for_cuda(jitted: Any, *args: Any, mesh: AbstractMesh | None = None) -> str:
    """The program for a GPU on which Triton's kernels run, as text."""
    checks = [export.DisabledSafetyCheck.custom_call(TRITON)]
    exported = export.export(jitted, platforms=("cuda",), disabled_checks=checks)
    here = contextlib.nullcontext()
    if jax.__version_info__ >= (0, 11):
        here = LATER.use_abstract_mesh(mesh or gpus(1, "gpu"))
    with here:
        return exported(*args).mlir_module()


@functools.cache
def chooses() -> bool:
    """Whether a program for one platform has its branches alone; jax 0.6 writes all."""

    def doubled(x: jax.Array) -> jax.Array:
        cpu, default = (lambda x: x * x), (lambda x: x + x)
        return jax.lax.platform_dependent(x, cpu=cpu, default=default)

    return "multiply" not in for_cuda(jax.jit(doubled), jnp.int32(21))


def check(text: str, donated: int) -> None:
    """No callback, nothing 64 bits wide, and so many arrays given away."""
    calls = re.findall(r"stablehlo\.custom_call @(\w+)", text)
    assert not [name for name in calls if "callback" in name or "ffi" in name]
    # Paddings and the like are written as 64-bit numbers whatever the program uses.
    text = re.sub(r"\w+ = dense<[^>]*> : tensor<[^>]*>", "", text)
    wide = re.findall(rf"tensor<(?:[0-9?]+x){SIZES}(?:u?i64|f64|complex<f64>)>", text)
    assert not wide
    given = len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", text))
    assert given == donated


def call(m: jaxmig.Machine) -> tuple[Any, ...]:
    numbers = (jnp.int32(n) for n in (PAGES, 1, 0))
    return m, jnp.zeros(PAGES, jnp.int32), *numbers, migrate.limit_of(512)


@functools.cache
def text_of(program: xla.Program, what: str, *numbers: int) -> str:
    """A program for both accelerators; it is the same for all releases, which are data."""
    args = (*call(machine(what)), *map(jnp.int32, numbers), word(rules("6.3")))
    return module(program.jitted(), *args)


@functools.cache
def on_gpu(program: xla.Program, what: str) -> tuple[Any, tuple[Any, ...]]:
    """A call with Triton's kernels, which is traced once, and its arguments."""
    return program.jitted(gpu=True), (*call(machine(what)), word(rules("6.3")))


@functools.cache
def text_on_gpu(program: xla.Program, what: str) -> str:
    """Its text."""
    jitted, args = on_gpu(program, what)
    return for_cuda(jitted, *args)


# Windows alone where it is known that nothing couples two batches.
KERNELS = [
    pytest.param("6.2", "base", True, id="serial"),
    pytest.param("6.2", "conditions", False, id="serial conditions, and in order"),
    pytest.param("6.2", "large", False, id="serial large, and in order"),
    pytest.param("6.3", "base", True, id="batched"),
    pytest.param("6.3", "base", False, id="batched, and in order"),
    pytest.param("6.12", "shared", True, id="batched shared"),
    pytest.param("6.3", "conditions", True, id="batched conditions"),
    pytest.param("6.3", "large", True, id="batched large"),
    pytest.param("6.18", "large", False, id="batched large, and in order"),
    pytest.param("v4", "conditions", False, id="as posted, and in order"),
]


@pytest.mark.parametrize(("kernel", "what", "safe"), KERNELS)
def test_kernels_lower(kernel, what, safe):
    text = text_of(migrate.program(rules(kernel).defers, True, safe), what)
    check(text, donated=len(jax.tree.leaves(machine(what))))


def test_calls_in_order_lower():
    """Those that write a log."""
    text = text_of(migrate.program(rules("6.12").defers, True, log=64), "large")
    check(text, donated=len(jax.tree.leaves(machine("large"))))


@pytest.mark.parametrize("what", ["base", "large"])
@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_calls_that_stop_half_way_lower(kernel, what):
    program = migrate.inside(rules(kernel).defers, what == "base")
    check(text_of(program, what, 1, 1), donated=0)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_sweeps_lower(kernel, counts):
    """All at once and one after the other."""
    check(text_of_sweep(program_of(rules(kernel).defers, counts)), donated=0)


@functools.cache
def text_of_sweep(program: xla.Program) -> str:
    m, heads, size, node, cpu, limit = call(machine("conditions"))
    stack = jax.tree.map(lambda x: jnp.stack([x] * SLOTS), m.cpus)
    limits, n = jnp.repeat(limit, SLOTS), jnp.int32(SLOTS)
    bits = jnp.asarray(word(rules("6.3")))
    return module(program.jitted(), m, heads, size, node, cpu, limits, stack, n, bits)


@pytest.mark.parametrize("shape", [Shape(4, 64), Shape(4, 64, huge=2, mms=2, words=4)])
def test_accesses_and_timelines_lower(shape):
    """The access kernel, and the migrator beside it; TLBs and memory are given away."""
    profile = machines.load("xeon-2s")
    table = timetable(profile, shape.folios, shape.huge)
    streams = Streams([fixed(np.zeros((8, 3), np.int32))] * shape.cpus, 64, shape.cpus)
    run = Run(shape, costs_of(profile, 20), streams, table, trips=1)
    stream = Stream(jnp.zeros((shape.cpus, 64, 2), jnp.int32))
    numbers = (jnp.int32(5), jnp.int32(9), jnp.asarray(True))
    args = (run.costs, run.plan, run.world, stream, *numbers)
    text = module(timeline_of(shape), *args)
    check(text, donated=len(jax.tree.leaves(run.world)))


def sharded(what: str, layout: str) -> tuple[xla.Program, tuple[Any, ...]]:
    """A call for four accelerators, none of which is here, and its arguments' shapes."""
    m = machine(what)
    mesh = gpus(4, "pages")
    plan = plan_of(m, mesh, layout)

    def shape(path: Any, x: jax.Array) -> jax.ShapeDtypeStruct:
        name, size, where = path[0].name, x.shape, P()
        if name in DEALT:
            d = plan.deal_of(name)
            size, where = (d.room * 4, *x.shape[1:]), P("pages")
        sharding = NamedSharding(mesh, where)
        return jax.ShapeDtypeStruct(size, x.dtype, sharding=sharding)

    shapes = jax.tree.map_with_path(shape, m)
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, P()))
    cut = NamedSharding(mesh, P("pages"))
    heads = jax.ShapeDtypeStruct((PAGES,), jnp.int32, sharding=cut)
    program = shard_call.compiled(rules("6.3").defers, plan, PAGES, True)
    return program, (shapes, heads, *[number] * 5)


@pytest.mark.parametrize(
    ("what", "layout"), [("base", "nodes"), ("conditions", "striped")]
)
def test_sharded_calls_lower(what, layout):
    """For four accelerators, none of which is here; boxes cross, arrays do not."""
    program, args = sharded(what, layout)
    text = module(program.jitted(), *args)
    check(text, donated=len(jax.tree.leaves(machine(what))))
    found = set(re.findall(r"stablehlo\.(all_\w+|collective_\w+)", text))
    assert found == {"all_reduce", "all_to_all", "collective_permute"}


def writes(text: str, rows: int, columns: str) -> int:
    """Scatters of a program into an array of so many rows."""
    # Behind the body of each stand the types of its operands.
    scatters = text.split('"stablehlo.scatter"(')[1:]
    operands = (scatter.partition("}) : (")[2] for scatter in scatters)
    return sum(first.startswith(f"tensor<{rows}x{columns}>") for first in operands)


@pytest.mark.parametrize(("kernel", "what", "safe"), KERNELS)
def test_on_gpus_one_kernel_copies_contents(kernel, what, safe):
    """Nothing is gathered and scattered; a window of large folios has a form of its own."""
    program = migrate.program(rules(kernel).defers, True, safe)
    m, text = on_gpu(program, what)[1][0], text_on_gpu(program, what)
    check(text, donated=len(jax.tree.leaves(m)))
    assert text.count(f"@{TRITON}(") == (
        2 if what == "large" and PAGES > 1 << 14 else 1
    )
    assert writes(text, m.geometry.frames, "1024xui32") == 0 or not chooses()


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_a_base_page_costs_four_random_writes_on_a_gpu(kernel):
    """Its entry twice, for the migration entry; its old row and its new one once each.

    A third write of entries is gone through only where a process has let a page go.
    """
    program = migrate.program(rules(kernel).defers, True, True)
    m, text = machine("base"), text_on_gpu(program, "base")
    assert writes(text, m.geometry.frames, "4xi32") == 2
    assert writes(text, m.pte.shape[0], "2xi32") == 2 + 1


# Operations that a GPU starts kernels for, each as often as it is written: most of those
# that are counted stand in branches for what is rare.  None sorts.  jax 0.10 has one loop
# less.
HEAVY = {
    "base": {"gather": 44, "scatter": 36, "while": 7, "sort": 0},
    "conditions": {"gather": 54, "scatter": 44, "while": 7, "sort": 0},
    "large": {"gather": 66, "scatter": 54, "while": 12, "sort": 0},
    "shared": {"gather": 68, "scatter": 34, "while": 13, "sort": 0},
}


@pytest.mark.parametrize("what", HEAVY)
def test_a_window_has_no_more_heavy_operations_on_a_gpu_than_it_had(what):
    """A call on few pages costs the starts of its kernels."""
    text = text_on_gpu(migrate.program(rules("6.3").defers, True, True), what)
    found = {name: text.count(f"stablehlo.{name}") for name in HEAVY[what]}
    worse = {name: n for name, n in found.items() if n > HEAVY[what][name]}
    assert not worse or not chooses()


def asked(jaxpr: Any, platform: str) -> Counter[str]:
    """Conditionals and loops of a program on a platform that the data decide.

    What stands inside of them is left out.
    """
    total = Counter[str]()
    # jax 0.6 has an operation for the index of a platform, and a switch on it.
    chosen: dict[int, Any] = {}
    for eqn in jaxpr.eqns:
        branches = eqn.params.get("branches", ())
        before = next((chosen[id(v)] for v in eqn.invars if id(v) in chosen), None)
        if eqn.primitive.name == "platform_index":
            chosen[id(eqn.outvars[0])] = (*eqn.params["platforms"], None)
        elif eqn.primitive.name == "clamp" and before:
            chosen[id(eqn.outvars[0])] = before
        elif of := eqn.params.get("branches_platforms") or (branches and before):
            # Chosen while the program is compiled.
            mine = [
                b for b, p in zip(branches, of, strict=True) if platform in (p or ())
            ]
            total += asked((mine or branches[-1:])[0].jaxpr, platform)
        elif eqn.primitive.name in ("cond", "while"):
            total[eqn.primitive.name] += 1
        else:
            for inner in within(eqn.params):
                total += asked(inner, platform)
    return total


def within(params: dict[str, Any]) -> Iterator[Any]:
    """The programs that an operation has as parameters."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr | Jaxpr):
                yield getattr(one, "jaxpr", one)


# What is rare: folios in whose way something stands, copy engines, contents that stay;
# many batches of several processes.  Chains of shared pages have any length.
RARE = {
    "base": {"cond": 3, "while": 2},
    "shared": {"cond": 3, "while": 8},
    "conditions": {"cond": 3, "while": 2},
    "large": {"cond": 7, "while": 3},
}


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
@pytest.mark.parametrize("what", RARE)
def test_a_gpu_seldom_waits_for_the_host(kernel, what):
    """It does so at each conditional and at each turn of a loop that the data decide."""
    program = migrate.program(rules(kernel).defers, True, True)
    jitted, args = on_gpu(program, what)
    assert asked(jitted.trace(*args).jaxpr.jaxpr, "cuda") == RARE[what]


def test_contents_that_stay_on_a_shard_go_by_the_same_kernel():
    program, args = sharded("base", "striped")
    text = for_cuda(program.jitted(gpu=True), *args, mesh=gpus(4, "pages"))
    assert text.count(f"@{TRITON}(") == 1


def test_many_machines_at_once_and_programs_of_others_have_no_kernel_of_ours():
    m, r = machine("base"), rules("6.3")
    args = (m, *call(m)[1:])
    many = jax.tree.map(lambda x: jnp.stack([x, x]), args)
    program = xla.Program(
        jax.vmap(lambda *args: migrate.run(*args, rules=r, safe=True))
    )
    assert TRITON not in for_cuda(program.jitted(gpu=True), *many)
    theirs = jax.jit(lambda *args: migrate.run(*args, rules=r, safe=True))
    assert TRITON not in export.export(theirs, platforms=("cuda",))(*args).mlir_module()
