"""Kernels side by side from Python, and results of a vmap."""

import sys
import types

import jax
import jax.numpy as jnp
import jaxmig
import pytest
from jaxmig.state import xla
from jaxmig.tools.comparison import Comparison

KERNELS = "6.2,6.3"
HOW = {"kernels": KERNELS, "cpus": 4, "running": [1, 2, 3]}


@pytest.fixture(scope="module")
def found() -> Comparison:
    return jaxmig.compare("memhog:1m", **HOW)


def test_records_are_those_of_the_command(found: Comparison) -> None:
    assert [r["kernel"] for r in found] == ["6.2", "6.3"]
    assert [sum(r["ipis_per_cpu"]) for r in found] == [768, 3]
    assert all(r["nodes_after"] == {"0": 0, "1": 256} for r in found)
    assert found.assumed.startswith(
        "Assumed: xeon-2s (x86, 2 nodes, 4 CPUs); target on"
    )
    assert found.answer == jaxmig.report.answer(list(found))
    text = str(found)
    assert (
        text.index(found.assumed) < text.index(found.answer[0]) < text.index("IPIs  ")
    )


def test_a_frame_has_a_row_a_kernel(
    found: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DataFrame(list):
        def set_index(self, name: str) -> dict:
            return {row[name]: row for row in self}

    fake = types.SimpleNamespace(DataFrame=DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", fake)
    frame = found.frame()
    assert list(frame) == ["6.2", "6.3"]
    assert frame["6.3"]["vmstat.pgmigrate_success"] == 256
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError):
        found.frame()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"target": "memhog:0"}, "more than 0"),
        ({"kernels": "6.99"}, "6.99"),
        ({"machine": "cray"}, "cray"),
        ({"running": [4]}, "running: CPU 4: the machine has CPUs 0-3"),
        ({"running": [-1]}, "running: CPU -1"),
        ({"lazy": [2]}, "CPU 2 runs the target already"),
        ({"cpu": 4}, "cpu 4: must be 0 to 3"),
        ({"batch": -1}, "batch -1: must be 0 to"),
        ({"batch": "8"}, "batch is str '8'"),
        ({"cpus": 0}, "cpus 0: must be 1 to"),
        ({"node_count": 2.5}, "node_count is float 2.5"),
        ({"running": "1-3"}, "running is str '1-3'"),
        ({"lazy": None}, "lazy is NoneType"),
        ({"kernels": 6.3}, "kernels is float 6.3"),
        ({"machine": 3}, "machine is int 3"),
        ({"target": 5.5}, "target is float 5.5"),
        ({"copy": 3}, "copy is int 3"),
        ({"seed": -1}, "seed -1: must be 0 to"),
        ({"to": "7"}, "7"),
        ({"to": ""}, "names none of the nodes"),
        ({"to": "0,1", "mode": "async"}, "takes several nodes"),
        ({"copy": "dma:0"}, "dma"),
    ],
)
def test_what_does_not_fit_is_a_value_error(how: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        jaxmig.compare(**{"target": "memhog:1m"} | HOW | how)
    assert "\n" not in str(caught.value)


def test_results_of_a_vmap_are_a_list() -> None:
    b = jaxmig.Builder(nodes=2, cpus=2)
    heap = b.mmap(b.process("app", running=[1]), pages=16)
    states = []
    for page in (3, 7):
        b.condition(heap, "extra_ref", pages=[page])
        states.append(b.build(content=False))
    folios = jaxmig.folios_on(states[0], node=0)
    singles = [jaxmig.migrate_pages(s, folios, 1, kernel="6.3")[1] for s in states]
    many = jax.tree.map(lambda *x: jnp.stack([*x] * 5), *states)
    call = jax.vmap(lambda s: jaxmig.migrate_pages(s, folios, 1, kernel="6.3")[1])
    results = jax.jit(call, compiler_options=xla.quick_options())(many)
    assert len(results) == len(list(results)) == 10
    assert [r.vmstat for r in results[:2]] == [r.vmstat for r in singles]
    assert str(results[-1]) == str(singles[1])
    lines = str(results).splitlines()
    assert lines[1] == f"1: {singles[1]}"
    assert (len(lines), lines[-1]) == (9, "... and 2 more")
    with pytest.raises(IndexError, match="result 10 of 10"):
        results[10]
    for name in ("vmstat", "ret", "errno", "sleeps"):
        with pytest.raises(ValueError, match=r"10 results; read one as result\[i\]"):
            getattr(results, name)
    assert singles[0]
    with pytest.raises(TypeError, match="has no length"):
        len(singles[0])
