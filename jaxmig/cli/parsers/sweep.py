"""`jaxmig sweep`: many configurations of one migration, a row for each."""

import argparse
from collections.abc import Callable
from typing import Any, Final

from jaxmig.cli import options
from jaxmig.cli.errors import Parser
from jaxmig.host.ranges import AxisError, values
from jaxmig.linux.releases import BOTH, MODES, NR_MAX_BATCHED_MIGRATION
from jaxmig.time import machines

EXAMPLES = """  jaxmig sweep memhog:64m --batch 1,64,512 --cpus 8,64 --running all -o a.csv
  jaxmig sweep app.npz 0 1 --machine xeon-2s,arm64-2n128c --samples 500 -o out.parquet
  srun -n 8 sh -c 'jaxmig sweep memhog:1g --cpus 2:64:2 --running all -o a.csv --resume \\
      --processes 8 --process-id $SLURM_PROCID'     parts on shared storage, merged
  ... --coordinator $(scontrol show hostnames | head -n 1):8476 ...   without one: parts
      come to process 0 over the network
"""
MAX_SAMPLES: Final = 10_000_000


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    options.add_target(parser)
    _add_axes(
        parser.add_argument_group("axes, each one value, a list, A:B:STEP, A:B:2x")
    )
    options.add_what_if(parser, thp=False)
    _add_sample(parser.add_argument_group("sample"))
    _add_file(parser.add_argument_group("file"))
    group = parser.add_argument_group("many processes, each with a part of the rows")
    group.add_argument(
        "--processes", type=options.whole("processes", 1, 100_000), default=1,
        metavar="N", help="how many there are (1)",
    )  # fmt: skip
    group.add_argument(
        "--process-id", type=options.whole("process", 0, 99_999), default=0,
        metavar="I", help="which one this is, from 0; whoever ends last merges",
    )  # fmt: skip
    group.add_argument(
        "--coordinator", metavar="HOST:PORT",
        help="process 0's address: parts come over the network, not a shared directory",
    )  # fmt: skip


def _add_axes(group: Any) -> None:
    group.add_argument(
        "--batch", type=_axis("base pages", 0, options.MAX_INT),
        default=(NR_MAX_BATCHED_MIGRATION,), metavar="PAGES",
        help="base pages at which a batch is closed; 0: no limit (512)",
    )  # fmt: skip
    group.add_argument(
        "--cpus", type=_axis("CPUs", 1, options.MAX_CPUS), metavar="N",
        help="CPUs of the machine (the first profile's)",
    )  # fmt: skip
    group.add_argument(
        "--thp", type=_axis("percent", 0, 100), metavar="PERCENT",
        help="share of the pages in THPs, as near as can be (the target's)",
    )  # fmt: skip
    group.add_argument(
        "--kernel", type=options.kernels, default=BOTH, metavar="LIST",
        help="both (6.2 and 6.3), or any releases",
    )  # fmt: skip
    group.add_argument(
        "--machine", type=_names, default=("xeon-2s",), metavar="LIST",
        help="cost profiles: names of `jaxmig machines`, .toml files, or all",
    )  # fmt: skip
    group.add_argument(
        "--copy", type=_engines, default=("cpu",), metavar="LIST",
        help=f"engines: {options.COPY}",
    )  # fmt: skip
    group.add_argument(
        "--mode", type=_modes, default=("sync",), metavar="LIST",
        help=f"of migrate_pages(): {', '.join(MODES)} (sync, by the system call)",
    )  # fmt: skip
    group.add_argument(
        "--running", type=_running, default="target", metavar="CPUS",
        help="CPUs that run the target, like 1-3,7 (those that a machine has), all but "
        "the migrating one, or target: where it ran, as in migratepages (target)",
    )  # fmt: skip


def _add_sample(group: Any) -> None:
    group.add_argument(
        "--samples", type=options.whole("samples", 1, MAX_SAMPLES), metavar="N",
        help="so many points of the grid, drawn at random, instead of all",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=options.whole("seed", 0, options.MAX_INT), default=0,
        metavar="N", help="of the drawing (0)",
    )  # fmt: skip


def _add_file(group: Any) -> None:
    group.add_argument(
        "-o", "--output", metavar="FILE",
        help=".csv or .parquet; standard output if left out",
    )  # fmt: skip
    group.add_argument("--plot", metavar="FILE", help="a picture, .png or .svg")
    options.add_report(group)
    group.add_argument(
        "--resume", action="store_true", help="go on where the file ends"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="begin again if the file exists"
    )


def _axis(what: str, least: int, most: int) -> Callable[[str], tuple[int, ...]]:
    def axis(text: str) -> tuple[int, ...]:
        try:
            return values(text, what, least, most)
        except AxisError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return axis


def _running(text: str) -> str | tuple[int, ...]:
    return text if text in ("all", "target") else options.cpus(text)


def _once(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))


def _engines(text: str) -> tuple[str, ...]:
    return tuple(map(options.engine, _once(text)))


def _names(text: str) -> tuple[str, ...]:
    if text == "all":
        return tuple(machines.names())
    return tuple(dict.fromkeys(options.machine(name) for name in text.split(",")))


def _modes(text: str) -> tuple[str, ...]:
    chosen = _once(text)
    for mode in chosen:
        if mode not in MODES:
            line = f"{mode!r} is no mode; use {', '.join(MODES)}"
            raise argparse.ArgumentTypeError(line)
    return chosen
