"""Node strings as libnuma reads them, and lists of CPUs."""

import contextlib

import jaxmig
import numpy as np
import pytest
from hypothesis import given, strategies as st
from invariants import LEDGER, VIOLATIONS
from jaxmig.host import nodes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0", (0,)),
        ("0,2", (0, 2)),
        ("2,0,2", (0, 2)),
        ("0-3", (0, 1, 2, 3)),
        ("1-2,0", (0, 1, 2)),
        ("all", (0, 1, 2, 3)),
        ("!0", (1, 2, 3)),
        ("!0-1", (2, 3)),
        ("!all", ()),
        ("+1", (1,)),
        ("!+1", (0, 2, 3)),
        ("0x2", (2,)),
        ("03", (3,)),
        ("3-1", (3,)),  # libnuma sets the first bit and finds the range empty
        ("", ()),
    ],
)
def test_sets_are_those_of_libnuma(text: str, found: tuple[int, ...]) -> None:
    assert nodes.parse(text, 4) == found


@pytest.mark.parametrize(
    "text", ["x", "0,", ",", "0--1", "-1", "0-", "1.0", "08", "!!0", "0 1", "\u0663"]
)
def test_what_is_no_set_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(nodes.NodeError) as caught:
        nodes.parse(text, 4)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["4", "0-4", "!4", "0,9", "99999999"])
def test_a_node_that_the_machine_lacks_is_named(text: str) -> None:
    with pytest.raises(nodes.NodeError, match="nodes 0-3"):
        nodes.parse(text, 4)
    with pytest.raises(nodes.NodeError, match=r"node 0 only; name another$"):
        nodes.parse("1", 1)
    for more in ("--nodes ", "node_count="):
        with pytest.raises(nodes.NodeError, match=f"; give {more}6 or another node$"):
            nodes.parse("0,5", 4, more)
    with pytest.raises(ValueError, match=r"node 7: .*; give node_count=8 or"):
        jaxmig.compare("memhog:1m", "0", "7")


@given(st.sets(st.integers(0, 63)))
def test_a_list_reads_back(found: set[int]) -> None:
    text = ",".join(map(str, found))
    assert nodes.parse(text, 64) == tuple(sorted(found))
    assert nodes.parse("!" + text, 64) == tuple(sorted(set(range(64)) - found))
    assert nodes.parse_cpus(text) == tuple(sorted(found))


@given(st.text(alphabet="0123456789-,!+alx ", max_size=12))
def test_any_text_is_a_set_or_an_error(text: str) -> None:
    for read in (lambda t: nodes.parse(t, 8), nodes.parse_cpus):
        with contextlib.suppress(nodes.NodeError):
            found = read(text)
            assert list(found) == sorted(set(found))


def test_cpus_read_like_masks() -> None:
    assert nodes.parse_cpus("1-3,7") == (1, 2, 3, 7)
    assert nodes.parse_cpus("none") == ()
    for text in ("3-1", "1,", "a", "0-99999999"):
        with pytest.raises(nodes.NodeError):
            nodes.parse_cpus(text)


def test_cpus_fold_onto_a_smaller_machine() -> None:
    assert nodes.fold([5, 37, 6], 32) == (5, 6)
    assert nodes.fold([], 4) == ()


def test_many_nodes_are_one_program() -> None:
    """Folios of twelve nodes go back to the stacks that they came from, at once."""
    b = jaxmig.Builder(nodes=12, cpus=4)
    app = b.process("app", running=[1, 2])
    for node in range(12):
        b.mmap(app, pages=5 + node, node=node)
    state = b.build(content=False, seed=1)
    folios = np.concatenate([jaxmig.folios_on(state, n) for n in (11, 3, 7, 0)])
    # Mixed, so that nodes take turns.
    folios = np.random.default_rng(2).permutation(folios)
    after, result = jaxmig.migrate_pages(state, folios, 5)
    assert result.vmstat["pgmigrate_success"] == 16 + 8 + 12 + 5
    wanted = [5 + n if n not in (11, 3, 7, 0) else 0 for n in range(12)]
    wanted[5] += 16 + 8 + 12 + 5
    assert jaxmig.pages_by_node(after) == wanted
    assert int(VIOLATIONS(after, LEDGER(state))) == 0
