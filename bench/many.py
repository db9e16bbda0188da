"""What do many small scenarios cost in one process, cold?

Scenarios are drawn: nodes, CPUs, processes, regions of folios of any size and kind,
conditions, calls, releases.  Their machines are made alike (`sources/alike.py`), so that
few programs serve them all.  Printed are seconds a scenario, compilations by the backend
(those under 20 ms apart) and the most memory.  Every scenario must keep its pages.
"""

import argparse
import random
import sys
import time
from typing import Any

import jax
import timing
from jaxmig.linux.releases import RELEASES
from jaxmig.sources import scenario
from jaxmig.state import xla
from jaxmig.tools import player

SHORT_S = 0.02
FOLIOS = {"4k": 1, "16k": 4, "64k": 16, "256k": 64, "2m": 512}
KINDS = ("anon", "anon", "anon", "shmem", "file")
STATES = ("locked", "extra_ref", "writeback", "pinned")
TARGETS = {"s/scenario": 0.5, "compilations": 24, "GB": 2.0}


def drawn(seed: int) -> str:
    """The text of one scenario file."""
    r = random.Random(seed)
    nodes, cpus = r.randint(2, 4), r.choice((2, 4, 6, 8))
    names = [f"p{i}" for i in range(r.randint(1, 3))]
    kernels = r.sample([k for k in RELEASES if k[0].isdigit()], 2)
    quoted = ", ".join(f'"{k}"' for k in kernels)
    lines = [f"kernel = [{quoted}]", "[machine]", f"nodes = {nodes}", f"cpus = {cpus}"]
    lines.append('node_size = "64m"')
    runs = [r.choice(names) for _ in range(cpus)]
    for name in names:
        running = [cpu for cpu in range(cpus) if runs[cpu] == name]
        lines += ["[[process]]", f'name = "{name}"', f"running = {running}"]
    for i in range(r.randint(1, 3)):
        lines += _region(r, i, names)
    for name in names:
        mode = r.choice(("sync", "async", "sync_light"))
        lines += ["[[call]]", 'syscall = "kernel"', f'process = "{name}"']
        lines += ['from = "0"', 'to = "1"', f'mode = "{mode}"']
    return "\n".join(lines) + "\n"


def _region(r: random.Random, number: int, names: list[str]) -> list[str]:
    """A region, and perhaps what stands in its way."""
    folio = r.choice(list(FOLIOS))
    pages = FOLIOS[folio] * r.randint(1, 4 if FOLIOS[folio] > 16 else 40)
    kind = r.choice(KINDS)
    owners = names if kind != "anon" else names[:1]
    shared = ", ".join(f'"{name}"' for name in owners)
    lines = ["[[region]]", f"process = [{shared}]", f'name = "r{number}"']
    lines += [f'size = "{4 * pages}k"', f'folio = "{folio}"', f'kind = "{kind}"']
    if r.random() < 0.5:
        state, until = r.choice(STATES), r.choice(('"attempt:2"', '"attempt:12"'))
        lines += ["[[condition]]", f'region = "r{number}"', "pages = [0]"]
        lines += [f'state = "{state}"', f"until = {until}"]
    return lines


class Compilations:
    """What the backend compiles, counted by jax.monitoring."""

    def __init__(self) -> None:
        self.long = self.short = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            self.long += seconds >= SHORT_S
            self.short += seconds < SHORT_S


def play(seed: int) -> int:
    """Play one scenario; the number of its calls.

    Raises:
      SystemExit: pages were lost.
    """
    s = scenario.loads(drawn(seed))
    records = player.play(s)
    for made in records:
        process = s.calls[records.index(made) % len(s.calls)].process
        mine = [x.n_pages for x in s.regions if process in x.processes]
        if sum(made["nodes_after"].values()) != sum(mine):
            raise SystemExit(f"many: scenario {seed} lost pages")
    return len(records)


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="four scenarios")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    heard, count = Compilations(), 4 if args.quick else args.scenarios
    start, cpu = time.perf_counter(), time.process_time()
    calls = sum(play(args.seed + i) for i in range(count))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    row = {
        "scenarios": count,
        "calls": calls,
        "s/scenario": wall / count,
        "cpu_s/scenario": cpu / count,
        "programs": xla.compilations(),
        "compilations": heard.long,
        "short_ones": heard.short,
        "GB": timing.peak_rss() / 1e9,
    }
    print(timing.table([row]))
    if not args.quick:
        print("targets:", ", ".join(f"{k} at most {v:g}" for k, v in TARGETS.items()))
    if args.save:
        timing.save("many", [row])
    return 0


if __name__ == "__main__":
    sys.exit(main())
