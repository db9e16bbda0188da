"""How long until the first result: import, compilation, a second size of one bucket?

Every number is from a fresh process without a compilation cache, but for those `from
cache`, which JAX_COMPILATION_CACHE_DIR names; `import` is what jaxmig adds to jax.  Where
folios are large one program serves all releases and modes; its time is given as the
clock's and as the processor's, which others do not disturb.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import timing

IMPORT = """
import time
import jax, jax.numpy, numpy, jaxtyping
start = time.perf_counter()
from {module} import Builder, migrate_pages
print(time.perf_counter() - start)
"""
CALL = """
import sys, time
sys.path.insert(0, {here!r})
from engine import Task, call
from jaxmig import migrate, xla
seconds = []
for pages in (1000, 1024):
    task = Task(pages, kernel={kernel!r}, cpus=128)
    seconds.append(call(task, task.machine())[3])
print(*seconds, xla.compilations())
"""
LARGE = """
import sys, time
sys.path.insert(0, {here!r})
from folios import large
from jaxmig import migrate, xla
from jaxmig.rules import rules
import jax.numpy as jnp
m, where = large(16)
heads = m.pte[where[9], 0]
numbers = (jnp.int32(n) for n in (len(heads), 1, 0))
args = (m, heads, *numbers, migrate.limit_of(512))
seconds = []
for kernel in ("6.18", "6.2"):
    wall, own = time.perf_counter(), time.process_time()
    migrate.executable(rules(kernel), True, *args)
    seconds += [time.perf_counter() - wall, time.process_time() - own]
print(*seconds[:3], xla.compilations())
"""


def fresh(code: str, cache: str = "") -> list[float]:
    """The numbers that a fresh interpreter prints; `cache`: a folder, if it has one."""
    name = "JAX_COMPILATION_CACHE_DIR"
    others = {k: v for k, v in os.environ.items() if k != name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=others | ({name: cache} if cache else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


def rows(repeat: int) -> list[timing.Row]:
    """A row a number, medians of so many processes."""
    here = str(timing.RESULTS.parent)
    package = timing.median(
        [fresh(IMPORT.format(module="jaxmig"))[0] for _ in range(repeat)]
    )
    found = [{"what": "import jaxmig beyond jax, s", "median": package, "target": 0.2}]
    for kernel in ("6.2", "6.3"):
        code = CALL.format(here=here, kernel=kernel)
        runs = [fresh(code) for _ in range(repeat)]
        first, second, programs = map(timing.median, zip(*runs, strict=True))
        with tempfile.TemporaryDirectory() as cache:
            fresh(code, cache)
            kept = timing.median([fresh(code, cache)[0] for _ in range(repeat)])
        for what, value, target in (
            ("first compilation, s", first, 8),
            ("the same from cache, s", kept, 1),
            ("second size of the bucket, s", second, 0.01),
            ("compilations of both", programs, 1),
        ):
            found.append(
                {"what": f"{kernel}: {what}", "median": value, "target": target}
            )
    runs = [fresh(LARGE.format(here=here)) for _ in range(repeat)]
    wall, own, other, programs = map(timing.median, zip(*runs, strict=True))
    for what, value, target in (
        ("first compilation, s", wall, 8),
        ("the same, processor s", own, 8),
        ("another release, s", other, 0.01),
        ("compilations of both", programs, 1),
    ):
        found.append(
            {"what": f"large folios: {what}", "median": value, "target": target}
        )
    return found


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one process each")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    found = rows(1 if args.quick else args.repeat)
    print(timing.table(found))
    if args.save:
        timing.save("startup", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
