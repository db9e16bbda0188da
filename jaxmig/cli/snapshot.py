"""`jaxmig snapshot`: the page table of a live process, kept in a file."""

import argparse

from jaxmig.cli import named, pictures
from jaxmig.cli.errors import Usage
from jaxmig.cli.output import check
from jaxmig.cli.progress import amount
from jaxmig.host.terminal import printable
from jaxmig.report.units import some
from jaxmig.sources import snapshot
from jaxmig.sources.procfs import list_pids


def run(args: argparse.Namespace) -> int:
    """Read and save page tables, and print a summary."""
    if bool(args.pid) == args.all:
        raise Usage("name a PID, or all of them with --all")
    if not args.output.endswith(".npz"):
        raise Usage(f"-o {args.output}: the name of a snapshot ends in .npz")
    if args.plot and len(args.pid) != 1:
        raise Usage("--plot draws one process; name one PID")
    check(args.output, private=True)
    pictures.check(args.plot)
    taken = _everything() if args.all else snapshot.take(*args.pid)
    taken.save(args.output)
    pictures.target_map(args.plot, taken, describe(taken))
    named.say_laid_out("jaxmig snapshot", taken.laid_out)
    print(printable(f"{args.output}: {describe(taken)}"))
    for why, pages in taken.unmovable():
        print(f"may not move: {some(pages, 'page')}: {printable(why)}")
    for line in (*taken.missing, snapshot.PINS):
        print(f"not known: {printable(line)}")
    return 0


def _everything() -> snapshot.Snapshot:
    with amount(len(list_pids()), "reading processes") as done:
        return snapshot.take_all(tick=done)


def describe(taken: snapshot.Snapshot) -> str:
    """The processes of a snapshot with their pages and mappings, in words."""
    n = len(taken.processes)
    if n == 1:
        name = printable(taken.processes.comm[0])
        who = f"PID {taken.processes.pid[0]} ({name})"
    else:
        who = f"{n} processes"
    pages = int(taken.rss_pages.sum())
    return f"{who}, {pages:,} pages resident (Rss), {len(taken):,} mappings"
