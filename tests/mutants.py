"""Mistakes put into the engine by hand, one at a time: the suite must see each.

python tests/mutants.py --jobs 2
python tests/mutants.py --only batch-closes-late lock-not-tried

`mutants.toml` lists them: a piece of source text that occurs once, what replaces it, the
rule of Linux that this breaks, and the quickest tests that fail then.  The checkout is
copied and only the copy is changed.  All these tests must first pass without a mistake.
Exit code 1 unless every mutant is killed, by an assertion of a test: a program that
breaks down, or never ends, proves nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".toml")
COPIED = ("jaxmig", "tests", "pyproject.toml", "README.md")
PYTEST = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow")
# The first example that fails is enough: hypothesis need not look for a smaller one.
PLUGIN = """from hypothesis import Phase, settings

quick = {"phases": [Phase.explicit, Phase.generate], "report_multiple_bugs": False}
settings.register_profile("mutants", **quick)
settings.load_profile("mutants")
"""
# How a line of the summary ends if a test found something wrong.
FOUND = re.compile(r"^FAILED .* - (AssertionError|assert )")


@dataclass(frozen=True)
class Mutant:
    """One mistake."""

    name: str
    file: str  # below the checkout
    old: str  # occurs once in it
    new: str
    breaks: str  # the rule of Linux, in a sentence
    tests: tuple[str, ...]  # at least one of them fails

    def applied(self, source: str) -> str:
        """The file's text with the mistake in it.

        Raises:
          ValueError: unless the piece that is replaced occurs exactly once.
        """
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: found {count} times in {self.file}")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Verdict:
    """What the tests said of a copy."""

    what: str  # killed, SURVIVED, BROKEN or TIMEOUT
    seconds: float
    why: str = ""  # the first failure, or the end of the output

    @property
    def killed(self) -> bool:
        """Whether a test found the mistake."""
        return self.what == "killed"


def read(path: Path = LIST) -> list[Mutant]:
    """The mutants of a list."""
    found = tomllib.loads(path.read_text())["mutant"]
    return [Mutant(**{**m, "tests": tuple(m["tests"])}) for m in found]


def copy(target: Path) -> None:
    """What tests need of the checkout, without compiled Python."""
    target.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, target / name)
    (target / "tests" / "first_failure.py").write_text(PLUGIN)


def run(where: Path, cache: Path, tests: tuple[str, ...], limit: float) -> Verdict:
    """Run tests in a copy."""
    # Sources of equal size, changed within a second, would share compiled Python.
    env = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{where}{os.pathsep}{where / 'tests'}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_PLATFORMS": "cpu",
        "COLUMNS": "500",  # lines of the summary are not cut
    }
    words = [sys.executable, "-m", "pytest", "-p", "first_failure", *PYTEST, *tests]
    start = time.perf_counter()
    # A session of its own: whatever tests have started ends with them.
    done = subprocess.Popen(
        words,
        cwd=where,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = done.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        output = None
    finally:
        if done.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(done.pid, signal.SIGKILL)
            done.communicate()
    seconds = time.perf_counter() - start
    if output is None:
        return Verdict("TIMEOUT", seconds)
    return Verdict(*said(done.returncode, output, seconds))


def said(code: int, output: str, seconds: float) -> tuple[str, float, str]:
    """The verdict of one run of pytest, from its exit code and its output."""
    if code == 0:
        return "SURVIVED", seconds, ""
    lines = output.strip().splitlines() or [""]
    why = next((line for line in lines if line.startswith("FAILED ")), lines[-1])
    what = "killed" if code == 1 and FOUND.search(why) else "BROKEN"
    return what, seconds, why.removeprefix("FAILED ")


class Copies:
    """Copies of the checkout, one for each job."""

    def __init__(self, home: Path, jobs: int) -> None:
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for i in range(jobs):
            copy(home / str(i))
            self._free.put(home / str(i))

    @contextlib.contextmanager
    def one(self, mutant: Mutant | None = None) -> Iterator[Path]:
        """A copy that nobody else uses, with a mistake in it if one is given."""
        where = self._free.get()
        file = where / (mutant.file if mutant else "pyproject.toml")
        source = file.read_text()
        try:
            if mutant:
                file.write_text(mutant.applied(source))
            yield where
        finally:
            file.write_text(source)
            self._free.put(where)


def clean(todo: list[Mutant], jobs: int) -> list[tuple[str, ...]]:
    """All tests that are used, in as many parts as there are jobs, files together."""
    tests = sorted({t for m in todo for t in m.tests})
    size = -(-len(tests) // jobs)
    return [tuple(tests[i : i + size]) for i in range(0, len(tests), size)]


def play(todo: list[Mutant], arguments: argparse.Namespace, home: Path) -> int:
    """Try all mutants; the exit code."""
    jobs, limit = arguments.jobs, arguments.timeout
    cache = arguments.cache or home / "jax"
    copies = Copies(home, jobs)

    def without(tests: tuple[str, ...]) -> Verdict:
        with copies.one() as where:
            return run(where, cache, tests, 10 * limit)

    def judge(mutant: Mutant) -> Verdict:
        with copies.one(mutant) as where:
            return run(where, cache, mutant.tests, limit)

    start, killed = time.perf_counter(), 0
    with ThreadPoolExecutor(jobs) as pool:
        if not arguments.trust:
            for found in pool.map(without, clean(todo, jobs)):
                print(f"without a mistake: {found.seconds:.0f} s", flush=True)
                if found.what != "SURVIVED":
                    print(f"these tests fail without one: {found.why or found.what}")
                    return 1
        running = {pool.submit(judge, m): m for m in todo}
        for done in as_completed(running):
            mutant, found = running[done], done.result()
            killed += found.killed
            by = f"  {found.why}" if arguments.why or not found.killed else ""
            print(
                f"{found.what:8} {found.seconds:5.0f} s  {mutant.name}{by[:160]}",
                flush=True,
            )
    minutes = (time.perf_counter() - start) / 60
    print(f"{killed} of {len(todo)} mutants killed, {minutes:.1f} min")
    return int(killed < len(todo))


def parsed(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some mutants")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds each (600)")
    parser.add_argument("--cache", type=Path, help="compiled programs, kept there")
    parser.add_argument(
        "--trust", action="store_true", help="tests are known to pass without a mistake"
    )
    parser.add_argument("--why", action="store_true", help="show the test that failed")
    arguments = parser.parse_args(words)
    names = {m.name for m in read()}
    if unknown := sorted(set(arguments.only or ()) - names):
        parser.error(f"no such mutant: {' '.join(unknown)}")
    return arguments


def main(words: list[str] | None = None) -> int:
    """Try the mutants that are asked for."""
    arguments = parsed(words)
    only = set(arguments.only or ())
    todo = [m for m in read() if not only or m.name in only]
    with tempfile.TemporaryDirectory(prefix="mutants-") as home:
        return play(todo, arguments, Path(home))


if __name__ == "__main__":
    sys.exit(main())
