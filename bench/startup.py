"""How long until the first result: commands, their parts, a second size of one bucket?

Every number is from a fresh process without a compilation cache, but for those `from
cache`, which JAX_COMPILATION_CACHE_DIR names; `import` is what jaxmig adds to jax.  Where
folios are large one program serves all releases and modes; its time is given as the
clock's and as the processor's, which others do not disturb.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

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
from jaxmig.engine import migrate; from jaxmig.state import xla
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
from jaxmig.engine import migrate; from jaxmig.state import xla
from jaxmig.linux.rules import rules
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


# The README's command, from within: what became of the time, part by part.
PARTS = """
import contextlib, io, time
from jaxmig.cli import app
marks = []
def mark(what):
    marks.append((what, time.perf_counter(), time.process_time()))
@contextlib.contextmanager
def ticking(steps, title):
    yield mark
mark("")
import jax, jax.numpy
mark("import jax")
from jaxmig.cli import migratepages
mark("import jaxmig")
migratepages.progress = ticking
with contextlib.redirect_stdout(io.StringIO()):
    app.main("migratepages memhog:1g 0 1".split(), alone=False)
mark("printed")
for before, (what, wall, own) in zip(marks, marks[1:]):
    print(what, wall - before[1], own - before[2], sep="\t")
"""
HELD = """
import sys
held = bytearray(300 << 20)
held[::4096] = b"x" * len(held[::4096])
print("held", flush=True)
sys.stdin.read()
"""


def spent(*words: str, cache: str) -> tuple[float, float]:
    """Seconds that a command took, by the clock and of all processors together."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = os.environ | {"XDG_CACHE_HOME": cache}
    command = [sys.executable, "-m", "jaxmig", *words]
    subprocess.run(command, env=env, capture_output=True, check=False)
    wall, after = (
        time.perf_counter() - start,
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, own


def commands(repeat: int) -> list[timing.Row]:
    """What people wait for: whole commands, cold and with programs of an earlier run."""
    main = ("migratepages", "memhog:1g", "0", "1")
    held = subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    held.stdout.readline()
    process = ("migratepages", str(held.pid), "0", "1", "--nodes", "2")
    asked = (("--help",), 0.3, 0), ((*main, "--nonsense"), 0.3, 0), (main, 6, 3)
    found = []
    for words, cold, kept in (*asked, (process, 6, 0)):
        runs: list[tuple[tuple[float, float], ...]] = []
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as cache:
                times = 2 if kept else 1
                runs.append(tuple(spent(*words, cache=cache) for _ in range(times)))
        name = " ".join(words).replace(str(held.pid), "PID of 300 MiB")
        for i, target in enumerate((cold, kept)[: len(runs[0])]):
            what = f"{name}{', from cache' if i else ''}"
            wall, own = (timing.median([run[i][k] for run in runs]) for k in (0, 1))
            found.append({"what": f"{what}, s", "median": wall, "target": target})
            found.append({"what": f"{what}, processor s", "median": own, "target": "-"})
    held.kill()
    held.communicate()
    return found


def parts(repeat: int) -> list[timing.Row]:
    """The main command's time by its parts, cold."""
    runs = [said(PARTS) for _ in range(repeat)]
    found = []
    for lines in zip(*runs, strict=True):
        cells = [line.split("\t") for line in lines]
        for i, unit in ((1, "s"), (2, "processor s")):
            value = timing.median([float(cell[i]) for cell in cells])
            what = f"part: {cells[0][0]}, {unit}"
            found.append({"what": what, "median": value, "target": "-"})
    return found


def fresh(code: str, cache: str = "") -> list[float]:
    """The numbers that a fresh interpreter prints."""
    return [float(word) for line in said(code, cache) for word in line.split()]


def said(code: str, cache: str = "") -> list[str]:
    """The lines that a fresh interpreter prints; `cache`: a folder, if it has one."""
    name = "JAX_COMPILATION_CACHE_DIR"
    others = {k: v for k, v in os.environ.items() if k != name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=others | ({name: cache} if cache else {"JAXMIG_NO_CACHE": "1"}),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


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
    repeat = 1 if args.quick else args.repeat
    found = [*commands(repeat), *parts(repeat), *rows(repeat)]
    print(timing.table(found))
    if args.save:
        timing.save("startup", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
