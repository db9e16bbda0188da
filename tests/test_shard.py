"""A machine on many devices: dealt out, refused, and bit by bit that of one device."""

import jax
import jaxmig
import numpy as np
import pytest
from jaxmig.engine import shard
from jaxmig.engine.shard.deal import Deal, block_of
from jaxmig.engine.shard.sharded import deal_list
from jaxmig.engine.shard.window import sizes
from jaxmig.state.machine import NOWHERE
from processes import HERE, LIMIT_S, environment, held_port, together

CASES = str(HERE / "shard_cases.py")


@pytest.mark.parametrize(
    ("shards", "block", "rows"), [(1, 7, 20), (2, 8, 64), (4, 3, 50), (3, 512, 1032)]
)
def test_every_row_has_one_place(shards: int, block: int, rows: int) -> None:
    d = Deal(shards, block, rows)
    index = np.arange(rows, dtype=np.int32)
    owner = np.asarray(d.owner(index))
    for s in range(shards):
        mine = owner == s
        here = np.asarray(d.local(index, mine))
        assert (here[~mine] == NOWHERE).all()
        np.testing.assert_array_equal(d.rows_of(s)[here[mine]], index[mine])
        assert here[mine].max(initial=0) < d.room
    pieces = np.concatenate([d.piece(index, s) for s in range(shards)])
    np.testing.assert_array_equal(d.whole(pieces), index)
    assert int(d.owner(np.full(1, NOWHERE, np.int32))[0]) == shards


def test_layouts_keep_a_node_or_a_slice_of_each() -> None:
    for shards in (2, 4, 8):
        node = np.arange(1024, dtype=np.int32)
        striped = Deal(shards, block_of("striped", shards, 2, 1024), 2048)
        np.testing.assert_array_equal(striped.owner(node), striped.owner(node + 1024))
        assert set(np.asarray(striped.owner(node)).tolist()) == set(range(shards))
        nodes = Deal(shards, block_of("nodes", shards, 2, 1024), 2048)
        assert (np.asarray(nodes.owner(node)) < shards // 2).all()
        assert (np.asarray(nodes.owner(node + 1024)) >= shards // 2).all()


def test_a_table_has_room_for_more_than_its_share() -> None:
    for shards in (1, 2, 3, 4, 64):
        s = sizes(1 << 14, shards)
        assert s.room * shards >= 1 << 14
        assert s.room % 128 == 0
        assert s.box >= 1


def machine(**options: object) -> jaxmig.Machine:
    b = jaxmig.Builder(nodes=2, cpus=4, **options)
    b.mmap(b.process("app", [1, 2, 3]), 1000)
    return b.build(content=False)


def test_what_is_not_sharded_is_refused() -> None:
    mesh = jax.make_mesh((1,), ("pages",))
    m = machine(free=[None, 999])
    s, folios = shard.deal(m, mesh), jaxmig.folios_on(m, 0)
    with pytest.raises(ValueError, match="999 pages free, the list has 1000"):
        shard.migrate_pages(s, folios, 1)
    with pytest.raises(ValueError, match="node 2: the machine has 2"):
        shard.migrate_pages(s, folios, 2)
    with pytest.raises(ValueError, match="layout 'rows'"):
        shard.deal(m, mesh, "rows")
    with pytest.raises(ValueError, match="one axis"):
        shard.deal(m, jax.make_mesh((1, 1), ("a", "b")))
    with pytest.raises(ValueError, match="999 free frames"):
        shard.arrange(machine_with_few_frames(), folios, 1, mesh)
    b = jaxmig.Builder(nodes=2, cpus=2)
    b.mmap(b.process("app"), 512, order=9)
    with pytest.raises(ValueError, match="larger folios"):
        shard.deal(b.build(), mesh)


def machine_with_few_frames() -> jaxmig.Machine:
    m = machine()
    return m.__class__(**(vars(m) | {"top": m.top.at[1, 0].set(999)}))


@pytest.mark.parametrize("layout", ["striped", "nodes"])
def test_what_is_dealt_out_is_collected_again(layout: str) -> None:
    m, mesh = machine(), jax.make_mesh((1,), ("pages",))
    again = shard.collect(shard.deal(m, mesh, layout))
    before, after = jax.tree.leaves(m), jax.tree.leaves(again)
    assert len(before) == len(after) > 10
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_short_list_is_dealt_out_in_order() -> None:
    plan = shard.deal(machine(), jax.make_mesh((1,), ("pages",))).plan
    heads = np.arange(5, 12, dtype=np.int32)
    dealt, d = deal_list(heads, 16, plan)
    np.testing.assert_array_equal(d.whole(np.asarray(dealt))[:7], heads)
    assert d.shards * d.room >= 16


def test_arranged_frames_are_the_same_frames() -> None:
    m, mesh = machine(), jax.make_mesh((1,), ("pages",))
    folios = jaxmig.folios_on(m, 0)
    other = shard.arrange(m, folios, 1, mesh)
    assert sorted(np.asarray(other.free)) == sorted(np.asarray(m.free))


def test_four_devices_agree_with_one() -> None:
    together([[CASES, "everything"]], environment(4), LIMIT_S)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "each_node_a_device",
        "staying_pages_do_not_cross",
        "shared",
        "three_devices",
        "broadcasts",
        "posted",
        "serial",
        "back_and_forth",
        "frames_return_at_the_same_places",
        "a_call_ends_after_the_same_chunk",
        "no_array_travels_or_is_copied",
        "sweeps",
    ],
)
def test_four_devices_agree_with_one_in(case: str) -> None:
    together([[CASES, case]], environment(4), LIMIT_S)


@pytest.mark.slow
def test_two_processes_with_two_devices_each_agree_with_one() -> None:
    cases = ("each_node_a_device", "everything")
    with held_port() as port:
        join = (CASES, "--join", str(port), "2")
        programs = [[*join, str(i), *cases] for i in range(2)]
        together(programs, environment(2), LIMIT_S)
