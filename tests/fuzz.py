"""The long run of drawn scenarios: engine against oracle, program by program.

python tests/fuzz.py --examples 100000 --seed 7 --journal fuzz.jsonl

Programs that may share what is compiled for them are neighbours, and jaxmig keeps only
so many compiled, so that memory does not grow with their number.  What is done is in the
journal: the same command goes on behind it after an interrupt.  Exit code 1 if engine and
oracle disagreed anywhere; what they disagreed on is shown as a scenario, as small as
hypothesis could make it (`--as-drawn`: as it was, which costs no search).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from differential import PLAYED, differences, to_toml
from hypothesis import HealthCheck, Phase, given, seed, settings
from jaxmig.state import xla
from strategies import Example, Program, examples, programs
from strategy_calls import caller_programs

ROUND = 500  # examples a seed: what hypothesis remembers of them grows


@dataclass(frozen=True)
class Task:
    """So many examples of one program, from the seeds `first`, `first` + 1 ..."""

    program: Program
    count: int
    first: int
    shrink: bool = True

    @property
    def shape(self) -> tuple[object, ...]:
        """What tells whether two may share compiled programs, then how much alike."""
        p = self.program
        return (p.large, p.caller or "", p.mode)

    @property
    def key(self) -> str:
        """What the journal knows it by."""
        return f"{name_of(self.program)} {self.count} {self.first}"


def name_of(p: Program) -> str:
    """A program in a few words."""
    words = ["large" if p.large else "small", p.kernel, p.mode, p.arch, p.caller]
    return " ".join(w for w in words if w)


def tasks(arguments: argparse.Namespace) -> list[Task]:
    """The examples shared out over the programs, the same for the same arguments."""
    large, small = programs(large=True), programs(large=False)
    if arguments.callers:
        large, small = caller_programs(large=True), caller_programs(large=False)
    if arguments.large_programs < len(large):
        large = random.Random(arguments.seed).sample(large, arguments.large_programs)
    of_large = int(arguments.examples * arguments.large) if large else 0
    shares = [(large, of_large), (small, arguments.examples - of_large)]
    found = []
    for choice, total in shares:
        for i, program in enumerate(choice):
            count = total * (i + 1) // len(choice) - total * i // len(choice)
            first = arguments.seed * 1_000_000 + len(found) * 10_000
            found.append(Task(program, count, first, not arguments.as_drawn))
    found = [t for t in found if t.count and arguments.only in t.key]
    return sorted(found, key=lambda t: t.shape)


class Disagreement(AssertionError):
    """Engine and oracle differ; `str()` is the scenario and the lines."""


def agree(e: Example) -> None:
    """Play one example on both."""
    p = e.program
    options: dict[str, Any] = {"batch": e.batch, "arch": p.arch, "content": p.content}
    lines = differences(e.document, p.kernel, **options)
    if lines:
        head = f"# {name_of(p)}, --batch {e.batch}"
        raise Disagreement("\n".join([head, *lines[:20], to_toml(e.document)]))


def one_round(task: Task, number: int, count: int) -> tuple[int, str]:
    """Examples played, and the disagreement that ended the round or ""."""
    played = 0
    options = settings(
        phases=[Phase.generate, *([Phase.shrink] if task.shrink else [])],
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    @seed(number)
    @options
    @given(examples([task.program]))
    def run(e: Example) -> None:
        nonlocal played
        played += 1
        agree(e)

    try:
        run()
    except Disagreement as found:
        return played, str(found)
    return played, ""


def play(task: Task) -> dict[str, Any]:
    """All examples of a task; the row of the journal."""
    start, cpu = time.perf_counter(), time.process_time()
    played, failures, before = 0, [], xla.compilations()
    PLAYED.clear()
    for number, done in enumerate(range(0, task.count, ROUND)):
        count = min(ROUND, task.count - done)
        more, failure = one_round(task, task.first + number, count)
        played += more
        failures += [failure] if failure else []
    return {
        "task": task.key,
        "kernel": task.program.kernel,
        "caller": task.program.caller,
        "examples": played,
        "compared": PLAYED["compared"],
        "executables": xla.compilations() - before,
        "wall_s": round(time.perf_counter() - start, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "failures": failures,
    }


def results(todo: list[Task], processes: int) -> Iterator[dict[str, Any]]:
    """The rows of all tasks, as they are done."""
    if processes == 1:
        yield from map(play, todo)
        return
    # A fresh interpreter each: JAX does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for done in as_completed([pool.submit(play, t) for t in todo]):
            yield done.result()


def read(journal: Path | None) -> dict[str, dict[str, Any]]:
    """Rows of earlier runs by task; a line cut short by an interrupt is none."""
    rows = {}
    if journal is not None and journal.exists():
        for line in journal.read_text().splitlines():
            try:
                row = json.loads(line)
                rows[row["task"]] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
    return rows


def report(row: dict[str, Any], done: int, total: int) -> None:
    """A line a program; and each scenario on which the two disagree."""
    print(
        f"[{done}/{total}] {row['task']}: {row['examples']} examples, "
        f"{row['compared']} compared, {row['executables']} compiled, {row['wall_s']} s",
        flush=True,
    )
    for text in row["failures"]:
        print(text, flush=True)


def total(rows: list[dict[str, Any]]) -> int:
    """The last lines, and the exit code."""
    examples_, bad = (
        sum(r["examples"] for r in rows),
        sum(len(r["failures"]) for r in rows),
    )
    cpu, wall = sum(r["cpu_s"] for r in rows), sum(r["wall_s"] for r in rows)
    print(
        f"{examples_} examples of {len(rows)} programs, {bad} disagreements; "
        f"{wall / 60:.1f} min, {cpu / 60:.1f} min of CPU"
    )
    if rows:
        (kernel, caller), share = min(compared(rows).items(), key=lambda item: item[1])
        print(f"compared least: {share:.0%} of {kernel} {caller or 'without a caller'}")
    return int(bad > 0)


def compared(rows: list[dict[str, Any]]) -> dict[tuple[str, str | None], float]:
    """The share of examples that both played, for each release and caller."""
    played, both = Counter[Any](), Counter[Any]()
    for row in rows:
        key = row["kernel"], row["caller"]
        played[key] += row["examples"]
        both[key] += row["compared"]
    return {key: both[key] / played[key] for key in played if played[key]}


def parsed(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--large", type=float, default=0.3, help="share of large folios"
    )
    parser.add_argument("--large-programs", type=int, default=999, help="at most")
    parser.add_argument(
        "--callers", action="store_true", help="each caller of each release"
    )
    parser.add_argument(
        "--only", default="", help='some programs: "small 6.3 sync x86"'
    )
    parser.add_argument(
        "--as-drawn", action="store_true", help="show what disagrees without shrinking"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--journal", type=Path, help="go on behind what it lists")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Play what the journal does not list yet."""
    arguments = parsed(words)
    todo = tasks(arguments)
    rows = read(arguments.journal)
    rows = {t.key: rows[t.key] for t in todo if t.key in rows}
    left = [t for t in todo if t.key not in rows]
    try:
        for row in results(left, arguments.processes):
            rows[row["task"]] = row
            report(row, len(rows), len(todo))
            if arguments.journal is not None:
                # The line break comes first: the line before may have been cut short.
                with arguments.journal.open("a") as file:
                    file.write("\n" + json.dumps(row))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it has a journal")
        total(list(rows.values()))
        return 130
    return total(list(rows.values()))


if __name__ == "__main__":
    sys.exit(main())
