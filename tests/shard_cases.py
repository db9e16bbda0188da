"""Calls on several devices beside the same calls on one; a program of its own.

python shard_cases.py CASE...                      on the devices of this process
python shard_cases.py --join PORT N I CASE...      as process I of N
"""

import dataclasses
import math
import re
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
from jaxmig.engine import migrate, shard
from jaxmig.engine.migrate import limit_of
from jaxmig.engine.shard import call
from jaxmig.engine.shard.sharded import DEALT, deal_list
from jaxmig.linux.rules import rules, word
from jaxmig.sources import uniform
from jaxmig.state import pte
from jaxmig.tools import sweep

SHORT = {"int32": "s32", "uint32": "u32", "bool": "pred"}


def mesh(devices: int | None = None) -> jax.sharding.Mesh:
    n = devices or jax.device_count()
    return jax.make_mesh((n,), ("pages",), devices=jax.devices()[:n])


def obstacles(shared: bool = False, conditions: bool = True) -> jaxmig.Machine:
    """Pages of two processes in random frames, many of them with something in the way."""
    b = jaxmig.Builder(nodes=2, cpus=4, tlb=(64, 8))
    one, other = b.process("one", [1, 2]), b.process("other", [3])
    r = b.mmap([one, other] if shared else one, 1500)
    f = b.mmap(other, 300, kind="file", private=True)
    if conditions:
        b.condition(r, "extra_ref", range(0, 1500, 16))
        b.condition(r, "locked", [3, 5, 600], until=4)
        b.condition(r, "writeback", [9, 700], until="waited")
        b.condition(r, "freed", [7, 900])
        b.condition(r, "pinned", [11, 12], until=6)
        b.condition(f, "buffers_locked", [20, 21], until=3)
        b.condition(f, "extra_ref", range(30, 60))
        b.condition(b.mmap(other, 64), "pinned", range(0, 64, 3))
        b.condition(b.mmap(other, 100, kind="movable_ops"), "driver_eagain", [3, 5], 2)
    return warm(b.build(seed=3))


def warm(m: jaxmig.Machine) -> jaxmig.Machine:
    """`m` after every CPU has touched what its process maps, as far as it has room."""
    words, cpus = np.asarray(m.pte), np.asarray(m.cpus.mm)
    entry, pfn = np.array(m.tlb.entry), np.array(m.tlb.pfn)
    sets, ways = entry.shape[0], entry.shape[1] // cpus.size
    held = np.asarray(pte.accessible(words[:, pte.BITS]))
    for cpu, mm in enumerate(cpus):
        ours = np.flatnonzero(held & (words[:, pte.BITS] >> pte.MM_SHIFT == mm))
        row, way = ours % sets, cpu * ways + ours // sets % ways
        entry[row, way], pfn[row, way] = ours, words[ours, pte.PFN]
    tlb = dataclasses.replace(m.tlb, entry=jnp.asarray(entry), pfn=jnp.asarray(pfn))
    return dataclasses.replace(m, tlb=tlb)


def differences(a: object, b: object) -> list[str]:
    """Arrays of two pytrees that are not the same bit by bit."""
    pairs = zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True)
    return [
        jax.tree_util.keystr(path) for (path, x), y in pairs if not np.array_equal(x, y)
    ]


def same(
    m: jaxmig.Machine, layout: str, devices: int | None = None, **how: object
) -> jaxmig.Result:
    """The call on the devices, checked against the call on one."""
    folios = jaxmig.folios_on(m, 0)
    s = shard.deal(m, mesh(devices), layout)
    s, got = jax.block_until_ready(shard.migrate_pages(s, folios, 1, **how))
    want = jaxmig.migrate_pages(m, folios, 1, **how)
    assert differences(want, (shard.collect(s), got)) == []
    return got


def everything() -> None:
    """One process runs elsewhere, one on this CPU alone, which drops page by page."""
    result = same(obstacles(), "striped", kernel="6.12", batch=100, cpu=3)
    assert 90 < result.ret < 200
    assert result.vmstat["nr_tlb_remote_flush"] > 14
    assert result.vmstat["nr_tlb_local_flush_one"] > 200


def each_node_a_device() -> None:
    assert same(obstacles(conditions=False), "nodes").ret == 0


def shared() -> None:
    assert same(obstacles(shared=True), "striped", kernel="6.3").ret > 90


def three_devices() -> None:
    same(obstacles(), "striped", devices=3, arch="arm64", kernel="6.18", mode="async")


def broadcasts() -> None:
    same(obstacles(), "nodes", arch="x86-invlpgb", kernel="6.18", batch=0, cpu=1)


def posted() -> None:
    same(obstacles(conditions=False), "striped", kernel="v4")


def serial() -> None:
    result = same(obstacles(), "striped", kernel="6.2", cpu=3)
    assert result.vmstat["nr_tlb_remote_flush"] > 200


def back_and_forth() -> None:
    """Entries are then other shards' than their frames; frames come back in order."""
    m = obstacles()
    s = shard.deal(m, mesh())
    for node in (1, 0):
        folios = jaxmig.folios_on(m, 1 - node)
        s, got = shard.migrate_pages(s, folios, node, donate=True)
        m, want = jaxmig.migrate_pages(m, folios, node)
        assert differences((m, want), (shard.collect(s), got)) == []


def frames_return_at_the_same_places() -> None:
    """A list with pages of the node they go to takes frames that it has given back."""
    m = uniform.machine(2000, cpus=3, content=False)
    m, _ = jaxmig.migrate_pages(m, jaxmig.folios_on(m, 0)[::3], 1)
    folios = np.asarray(m.pte[:1600, 0])
    in_chunks(m, folios, 1250, 70)


def a_call_ends_after_the_same_chunk() -> None:
    """A page that is waited for for ever ends a call."""
    b = jaxmig.Builder(nodes=2, cpus=4)
    r = b.mmap(b.process("app", [0]), 800)
    b.condition(r, "locked", [300])
    m = warm(b.build())
    result = in_chunks(m, jaxmig.folios_on(m, 0), 800, 64)
    assert result.vmstat["pgmigrate_success"] == 383


def in_chunks(
    m: jaxmig.Machine, folios: np.ndarray, size: int, batch: int, chunk: int = 192
) -> jaxmig.Result:
    """A call on devices that are nodes, in short chunks, checked as in `same`."""
    r, room = rules("6.3"), folios.size
    s = shard.deal(m, mesh(), "nodes")
    args = (*(jnp.int32(n) for n in (size, 1, 0)), limit_of(batch))
    want = jax.jit(lambda m, f, *a: migrate.run(m, f, *a, r, chunk, True))(
        m, jnp.asarray(folios), *args
    )
    run = jax.jit(call.program(r.defers, s.plan, room, chunk))
    args = (deal_list(folios, room, s.plan)[0], *args, jnp.asarray(word(r)))
    got, result = run(s.m, *args)
    got = shard.collect(shard.Sharded(got, s.plan))
    assert differences(want, (got, result)) == []
    return result


def no_array_travels_or_is_copied() -> None:
    """Only boxes and windows cross; no loop copies what a shard keeps."""
    pages = 3 << 15
    m = uniform.machine(pages, cpus=3)
    s = shard.deal(m, mesh())
    numbers = (jnp.int32(n) for n in (pages, 1, 0))
    folios = deal_list(np.arange(pages, dtype=np.int32), pages, s.plan)[0]
    r = rules("6.3")
    program = call.compiled(r.defers, s.plan, pages, True)
    args = (folios, *numbers, limit_of(512), jnp.asarray(word(r)))
    text = program.executable(s.m, *args).as_text()
    assert "all-gather" not in text
    kept = {n: getattr(s.m, n) for n in DEALT if getattr(s.m, n) is not None}
    for name, array in kept.items():
        shape = array.sharding.shard_shape(array.shape)
        own = f"{SHORT[str(array.dtype)]}[{','.join(map(str, shape))}]"
        assert not re.search(rf" = {re.escape(own)}(\{{[0-9,]*\}})? copy\(", text), name
    for words in re.findall(
        r"= \(?\w+\[([0-9,]*)\][^=]*? (?:all-reduce|all-to-all|collective-permute)\(",
        text,
    ):
        size = math.prod(int(n) for n in words.split(",") if n)
        assert size < pages * 4 or size <= 256 * 1024, words


def staying_pages_do_not_cross() -> None:
    """After `arrange` each page's new frame is its old one's shard's."""
    m = obstacles(conditions=False)
    folios = jaxmig.folios_on(m, 0)
    m = shard.arrange(m, folios, 1, mesh())
    s = shard.deal(m, mesh())
    s, _ = shard.migrate_pages(s, folios, 1)
    after, _ = jaxmig.migrate_pages(m, folios, 1)
    assert differences(after, shard.collect(s)) == []
    d = s.plan.frames
    entry = np.asarray(m.frame)[folios, 3]
    new = np.asarray(after.pte)[entry, 0]
    assert (new // d.block % d.shards == folios // d.block % d.shards).all()


def sweeps() -> None:
    """Configurations dealt out among devices count as each of them does alone."""
    m = obstacles()
    folios, limits = jaxmig.folios_on(m, 0), [1, 7, 64, 500, 0, 100]
    got = sweep.count_many(m, folios, 1, batch=limits, at_once=1, mesh=mesh())
    for i, limit in enumerate(limits):
        want = jaxmig.migrate_pages(m, folios, 1, batch=limit)[1]
        assert differences(want, jax.tree.map(lambda x, i=i: x[i], got)) == []


CASES: dict[str, Callable[[], object]] = {
    f.__name__: f
    for f in (
        everything,
        each_node_a_device,
        shared,
        three_devices,
        broadcasts,
        posted,
        serial,
        back_and_forth,
        frames_return_at_the_same_places,
        a_call_ends_after_the_same_chunk,
        no_array_travels_or_is_copied,
        staying_pages_do_not_cross,
        sweeps,
    )
}


def main(words: list[str]) -> None:
    if words[0] == "--join":
        port, n, i = map(int, words[1:4])
        words = words[4:]
        jax.distributed.initialize(
            f"localhost:{port}", n, i, initialization_timeout=600
        )
    for name in words:
        CASES[name]()
        print("passed:", name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
