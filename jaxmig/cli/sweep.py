"""`jaxmig sweep`: many configurations of one migration, a row for each."""

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from jaxmig import report
from jaxmig.calls.syscalls import SleepsForever
from jaxmig.cli import (
    gather,
    htmlreport,
    output,
    pictures,
    runtime,
    sweepopts,
    sweeptable,
)
from jaxmig.cli.errors import Failure, Usage, say
from jaxmig.cli.progress import TIMES, redrawn
from jaxmig.cli.room import check_room
from jaxmig.report import units
from jaxmig.tools.sweep import Journal, JournalError, Row, Sweep, journal, play, rows

MOST_READ = 100_000  # rows: a longer file is not read for its fastest row


def run(args: argparse.Namespace) -> int:
    """Check the options, then fill the file."""
    path = Path(args.output) if args.output else None
    _check_files(args, path)
    runtime.prepare()
    if args.coordinator:
        gather.join(args.coordinator, args.processes, args.process_id)
    sweep = sweepopts.sweep_of(args)
    memory = sweep.memory
    t = memory.target
    check_room(t.name, t.pages, memory.nodes, False, 2, t.foreign)
    # Standard output may have the rows, and then nothing else.
    print(sweepopts.assumed(sweep), file=sys.stderr)
    for line in sweepopts.remarks(sweep, args.copy):
        print(line, file=sys.stderr)
    try:
        if path is None:
            return _print(args, sweep)
        return _fill(args, sweep, path)
    except SleepsForever:
        raise Failure("the call would wait for ever for a page in use") from None
    except JournalError as error:
        raise Failure(str(error)) from None


def _check_files(args: argparse.Namespace, path: Path | None) -> None:
    pictures.check(args.plot)
    output.check(*htmlreport.files(args))
    if path is None:
        if args.resume or args.overwrite or args.processes > 1:
            raise Usage("--resume, --overwrite and --processes need a file: -o FILE")
        return
    if path.suffix not in (".csv", ".parquet"):
        raise Usage(f"-o {path}: rows go to a .csv or a .parquet file; name such a one")
    if args.resume and args.overwrite:
        raise Usage("--resume keeps what --overwrite throws away; choose one")
    if not args.process_id < args.processes:
        raise Usage(f"--process-id {args.process_id}: of --processes {args.processes}")
    if args.resume and args.target.isdigit():
        advice = f"take `jaxmig snapshot {args.target} -o FILE.npz` and sweep that"
        raise Usage(f"--resume: a running process changes; {advice}")
    if args.processes == 1 and path.suffix == ".parquet":
        output.check(args.output)
    else:
        output.able(args.output)
    if path.suffix == ".parquet":
        try:
            journal.check_parquet()
        except JournalError as error:
            raise Failure(str(error)) from None


def _print(args: argparse.Namespace, sweep: Sweep) -> int:
    """Print the rows."""
    sys.stdout.write(rows.heading())
    made: list[Row] = []
    for some in _shown(args, sweep, sweep.indices):
        sys.stdout.write("".join(map(rows.text, some)))
        sys.stdout.flush()
        made += some if args.plot or args.report else []
    _draw(args, sweep, made)
    return 0


def _fill(args: argparse.Namespace, sweep: Sweep, path: Path) -> int:
    """Append rows to a file; once it is complete, convert and draw it as asked for."""
    table = path if path.suffix != ".parquet" else path.with_name(f"{path.name}.rows")
    if path.exists() and path != table and not args.overwrite:
        if args.resume and journal.is_parquet_of(path, sweep.stamp):
            table.unlink(missing_ok=True)  # killed between the two
            say(f"jaxmig sweep: {units.some(len(sweep.indices), 'row')} in {path}")
            return 0
        raise Failure(f"{path}: exists; begin again with --overwrite")
    done = args.resume and _complete(table, sweep)
    if not done:
        if args.overwrite:
            for old in (table, _mine(args, table)):
                old.unlink(missing_ok=True)
        done = _append(args, sweep, table)
    if not done:
        say(f"jaxmig sweep: part {args.process_id} of {args.processes} is done")
        return 0
    made = journal.read(table) if len(sweep.indices) <= MOST_READ else []
    if made:
        print("\n".join(_fastest(sweep, made)))
        if len(made) > 1:
            width = report.terminal_width(sys.stdout)
            print(f"\n{sweeptable.text(made, _varied(sweep), width)}\n")
        sys.stdout.flush()  # before what stderr says
    if args.plot or args.report:
        _draw(args, sweep, made or journal.read(table))
    if path != table:
        journal.to_parquet(table, path, sweep.stamp)
    say(f"jaxmig sweep: {units.some(len(sweep.indices), 'row')} in {path}")
    return 0


def _draw(args: argparse.Namespace, sweep: Sweep, made: Sequence[Row]) -> None:
    """Write the picture and the HTML page, if the options ask for them."""
    memory, many = sweep.memory, len(sweep.grid.cpus) > 1
    running = report.units.cpu_list(memory.running(memory.cpus))
    title = f"{memory.target.name}: {memory.target.description}\nruns on CPUs {running}"
    title += f" of {memory.cpus}" * many
    pictures.sweep(args.plot, made, title)
    if args.report is None or not made:
        return
    from jaxmig.show import html

    lines = (
        ("batch", "pages_per_s", "Modelled pages/s", units.rate),
        ("batch", "stall_ns.p99", "Stall of 99 of 100 pages", units.duration),
        ("cpus", "vmstat.nr_tlb_remote_flush_received", "IPIs", units.rate),
        ("cpus", "time_ns.total", "Modelled time", units.duration),
        ("thp", "time_ns.total", "Modelled time", units.duration),
    )
    drawn = [html.lines_over(made, *one) for one in lines]
    table = html.rows_table(made, "Configurations")
    figures = (*(one for one in drawn if one), table)
    t = sweep.memory.target
    about = (sweepopts.assumed(sweep), f"Target: {t.name}: {t.description}")
    section = html.Section("Answer", tuple(_fastest(sweep, made)), figures)
    htmlreport.write(
        args, f"{t.name} in {units.some(len(made), 'configuration')}", [section], about
    )


def _varied(sweep: Sweep) -> list[str]:
    return [name for name, values in sweep.grid.axes.items() if len(values) > 1]


def _fastest(sweep: Sweep, made: Sequence[Row]) -> list[str]:
    """The best row in a sentence, by what varies, and how sure that is."""
    best = max(made, key=lambda r: r["pages_per_s"])
    named = _varied(sweep) or sweep.grid.axes
    axes = ", ".join(f"{name} {best[name]}" for name in named)
    rate, stall = units.rate(best["pages_per_s"]), units.duration(best["stall_ns.p99"])
    which = "The only configuration"
    if len(made) > 1:
        which = f"Of {len(made):,} configurations the fastest"
    said = (
        f"{which} moves {rate} pages/s: {axes}; "
        f"99 of 100 pages are away for at most {stall}."
    )
    return [line for line in (said, sweeptable.overlapping(made, best)) if line]


def _append(args: argparse.Namespace, sweep: Sweep, table: Path) -> bool:
    """Fill this process's part; True if the whole file is there afterwards."""
    n, me = args.processes, args.process_id
    indices: Sequence[int] = sweep.indices
    target = table
    if n > 1:
        if table.exists():
            advice = "use --resume or --overwrite"
            raise Failure(f"{table}: exists, though parts are to be merged; {advice}")
        indices = sweep.grid.share(sweep.indices, me, n)
        target = _mine(args, table)
    with Journal(
        target, sweep.stamp, lambda i: _key(sweep, indices, i), args.resume
    ) as file:
        left = indices[file.done :]
        for some in _shown(args, sweep, left, file.done, len(indices)):
            for row in some:
                file.add(rows.text(row))
    if n == 1:
        return True
    parts = [journal.part(table, i, n) for i in range(n)]
    if args.coordinator:
        gather.exchange(parts, me)
        if me:
            return False
    owners = [i // sweep.grid.prices % n for i in sweep.indices]
    return journal.merge(table, parts, owners)


def _key(sweep: Sweep, indices: Sequence[int], i: int) -> str:
    return rows.key(sweep.grid.at(indices[i])) if i < len(indices) else "no more rows"


def _mine(args: argparse.Namespace, table: Path) -> Path:
    if args.processes == 1:
        return table
    return journal.part(table, args.process_id, args.processes)


def _complete(table: Path, sweep: Sweep) -> bool:
    """Whether the whole file is there already; Failure if it is another one."""
    if not table.exists():
        return False
    keys = functools.partial(_key, sweep, sweep.indices)
    with Journal(table, sweep.stamp, keys, resume=True) as file:
        return file.done == len(sweep.indices)


def _shown(
    args: argparse.Namespace,
    sweep: Sweep,
    indices: Sequence[int],
    done: int = 0,
    total: int | None = None,
) -> Iterator[list[Row]]:
    """The rows, under a bar with the time left on a terminal."""
    bar = tqdm(
        total=len(indices) if total is None else total,
        initial=done,
        desc=args.target,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        bar_format="{desc}: {n_fmt}/{total_fmt} " + TIMES,
    )
    with contextlib.closing(bar), redrawn(bar):
        for some in play(sweep, indices):
            yield some
            bar.update(len(some))
