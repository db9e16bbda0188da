"""What a page costs does not depend on how many there are, nor does compilation.

A compiled loop that reads one array to write another may copy whole arrays at every
trip: right results, and hours at a million pages.  The compiled text shows it.
"""

import functools
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import jaxmig
import pytest
from jaxmig.engine import migrate
from jaxmig.linux.releases import RELEASES
from jaxmig.linux.rules import MODES, rules, word
from jaxmig.sources import uniform
from jaxmig.state import xla

KERNELS = ["6.2", "6.3"]
# More than a chunk, so that both policies loop, and larger than any TLB.
LONG = 5 << 14
SHORT = {"int32": "s32", "uint32": "u32", "bool": "pred"}


@pytest.fixture(autouse=True)
def _text_alone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLVM need not optimize what does not run; XLA's program is the same without."""
    if not request.node.get_closest_marker("slow"):
        level = {"xla_backend_optimization_level": 0}
        monkeypatch.setattr(xla, "CPU_OPTIONS", xla.CPU_OPTIONS | level)


def arguments(m: jaxmig.Machine, pages: int) -> tuple[Any, ...]:
    numbers = (jnp.int32(n) for n in (pages, 1, 0))
    heads = m.pte[: m.geometry.ptes, 0]
    return m, heads, *numbers, migrate.limit_of(512)


def uniform_call(pages: int, *, content: bool = False) -> tuple[Any, ...]:
    return arguments(uniform.machine(pages, content=content), pages)


def shared_call(pages: int) -> tuple[Any, ...]:
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap([b.process("a", running=[1]), b.process("b", running=[2])], pages)
    return arguments(b.build(), pages)


def conditions_call(pages: int) -> tuple[Any, ...]:
    b = jaxmig.Builder(nodes=2, cpus=4)
    r = b.mmap(b.process("a", running=[1, 2, 3]), pages)
    b.condition(r, "extra_ref", range(0, pages, 16))
    return arguments(b.build(), pages)


def large_call(pages: int, *, content: bool = False) -> tuple[Any, ...]:
    b = jaxmig.Builder(nodes=2, cpus=4)
    one, two = b.process("a", running=[1]), b.process("b", running=[2])
    half = pages // 2
    b.mmap(one, half, order=9)
    some = b.mmap([one, two], pages - half, order=4, kind="shmem")
    b.condition(some, "extra_ref", range(0, half, 512), until=3)
    b.splits = True
    m = b.build(content=content)
    heads = jaxmig.folios_on(m, node=0)
    room = jnp.zeros(m.geometry.frames, jnp.int32).at[: len(heads)].set(heads)
    numbers = (jnp.int32(n) for n in (len(heads), 1, 0))
    return m, room, *numbers, migrate.limit_of(512)


def copied(text: str, m: jaxmig.Machine, pages: int) -> list[str]:
    """The state arrays that grow with the machine and that a program copies."""
    found = []
    for path, leaf in jax.tree.leaves_with_path(m):
        shape = ",".join(map(str, leaf.shape))
        name = f"{SHORT[str(leaf.dtype)]}[{shape}]"
        copy = rf" = {re.escape(name)}(\{{[0-9,]*\}})? copy\("
        if math.prod(leaf.shape) >= pages and re.search(copy, text):
            found.append(jax.tree_util.keystr(path) + " " + name)
    return found


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("content", [True, False], ids=["contents", "metadata"])
def test_no_array_of_the_state_is_copied(kernel, content):
    args = uniform_call(LONG, content=content)
    text = migrate.executable(rules(kernel), True, *args).as_text()
    assert copied(text, args[0], LONG) == []


@pytest.mark.parametrize("call", [shared_call, conditions_call])
def test_no_array_is_copied_with_shared_pages_or_conditions(call):
    args = call(LONG)
    text = migrate.executable(rules("6.3"), True, *args).as_text()
    assert copied(text, args[0], LONG) == []


@functools.cache
def some_large() -> tuple[Any, ...]:
    """Folios of three sizes with contents, more than fit a cache."""
    return large_call(1 << 13, content=True)


def test_no_array_is_copied_where_folios_are_large():
    args, r = some_large(), rules("6.18")
    # In the forms that many pages have.
    with xla.tricks(True):
        call = jax.jit(
            migrate.program.__wrapped__(r.defers, False).function,
            compiler_options=xla.CPU_OPTIONS | xla.quick_options(),
        ).lower(*args, word(r))
    text = call.compile().as_text()
    # Given away or not, what a loop changes it changes in place.
    inside = text[: text.index("\nENTRY ")]
    assert copied(inside, args[0], 1 << 12) == []
    # Contents of each size go in a loop of their own, as much at a time as a cache holds,
    # where folios go one by one; windows have two forms, each with a loop for pages and
    # one for blocks.
    memory = re.escape(f"u32[{args[0].memory.shape[0]},1024]")
    loops = re.findall(rf" = {memory}\S* call\(.*xla_cpu_small_call", text)
    assert len(loops) == (len(args[0].geometry.orders) + 4) * xla.known()
    assert "u32[512,1024]" not in text or not xla.known()


def test_no_array_is_copied_where_a_call_keeps_a_log():
    args = shared_call(1 << 13)
    text = migrate.executable(rules("6.12"), True, *args, log=4096).as_text()
    assert copied(text, args[0], 1 << 12) == []


def test_releases_of_a_kind_share_a_program():
    # Serial, batched or as posted; modes, reasons and architectures are data.
    args = uniform_call(2048)
    before = xla.compilations()
    for name, release in RELEASES.items():
        for mode in MODES:
            for arch in ("x86", "arm64"):
                migrate.executable(rules(name, mode, arch=arch), False, *args)
            migrate.executable(rules(name, mode, "longterm_pin"), False, *args)
        assert release.name == name
    assert xla.compilations() == before + 1


@pytest.mark.parametrize("call", [uniform_call, shared_call, conditions_call])
def test_memory_beyond_the_state_does_not_grow_with_it(call):
    used = []
    for pages in (LONG, 1 << 18):
        args = call(pages)
        program = migrate.executable(rules("6.3"), True, *args)
        used.append(program.compiled.memory_analysis().temp_size_in_bytes)
    # Arrays of a chunk, and nothing beside; a copy of the frames would be 8 MiB more.
    assert used[1] == used[0] < 32 << 20


def test_a_page_has_less_than_96_bytes():
    pages = 1 << 18
    args = uniform_call(pages)
    # TLBs have a size of their own.
    state = [leaf for leaf in jax.tree.leaves(args) if leaf.size >= pages]
    assert sum(leaf.nbytes for leaf in state) <= 64 * pages


def test_contents_are_copied_by_one_compiled_function():
    args = uniform_call(LONG, content=True)
    text = migrate.executable(rules("6.3"), True, *args).as_text()
    memory = re.escape(f"u32[{args[0].memory.shape[0]},1024]")
    found = re.search(rf" = {memory}\S* call\(.*xla_cpu_small_call", text)
    assert bool(found) == xla.known()


def test_sizes_of_one_bucket_share_a_compilation():
    before = xla.compilations()
    for pages in (9001, 9500, 10240):
        args = uniform_call(pages)
        for kernel in KERNELS:
            migrate.executable(rules(kernel), True, *args)
    assert xla.compilations() == before + 1


def seconds(kernel: str, pages: int, call: Any = uniform_call) -> float:
    args = jax.block_until_ready(call(pages))
    program = migrate.executable(rules(kernel), True, *args)
    start = time.process_time()
    jax.block_until_ready(program(*args))
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_page_costs_as_much_among_many(kernel):
    sizes = [1 << n for n in (14, 18, 20)]
    # Sizes take turns, and the least counts; of processor time, which others use too.
    rounds = [[seconds(kernel, n) / n for n in sizes] for _ in range(8)]
    few, some, many = (min(times) for times in zip(*rounds, strict=True))
    # Rows come from caches that a million pages outgrow, which also the serial loop shows
    # since it is one function; a copy of a whole array at every trip would show as a
    # factor of hundreds in either form.
    assert many < 3 * some
    assert many < 3 * few


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_large_folio_costs_as_much_among_many(kernel):
    sizes = [1 << n for n in (14, 18)]
    rounds = [[seconds(kernel, n, large_call) / n for n in sizes] for _ in range(4)]
    few, many = (min(times) for times in zip(*rounds, strict=True))
    assert many < 3 * few
