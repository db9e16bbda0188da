"""How fast is a trace read, by format, beside a loop that only splits its lines?

A golden file of the tests is repeated to some MiB; MB/s are of the file as it lies on
the disk (champsim uncompressed).  The floor is one pass of Python over the lines, with
the last word of each parsed as a hexadecimal number where it is one.  Seconds are of
this process on the CPU: reading uses one thread, and a busy machine does not count.
"""

import argparse
import lzma
import sys
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401  before jaxmig
import timing
from jaxmig.programs import traces
from jaxmig.programs.traces import native

DATA = Path(__file__).parent.parent / "tests/data/traces"
FILES = ("lackey.txt", "perf.txt", "tracefs.txt", "view.txt", "table.csv")
MIB = 1 << 20


def repeated(name: str, to: Path, size: int) -> None:
    """A file of about `size` bytes."""
    data = (DATA / name).read_bytes()
    if name.endswith(".xz"):
        data = lzma.decompress(data)
    head = 2 if name == "table.csv" else 0
    lines = data.split(b"\n", head)
    to.write_bytes(
        b"".join(x + b"\n" for x in lines[:head])
        + lines[head] * (size // len(lines[head]))
    )


def reading(path: Path) -> tuple[float, int]:
    """Seconds, and accesses."""
    start, n = time.process_time(), 0
    for block in traces.blocks(path):
        n += len(block)
    return time.process_time() - start, n


def floor(path: Path) -> float:
    """Seconds of the plain loop."""
    start, kept = time.process_time(), []
    with path.open("rb") as file:
        for line in file:
            words = line.replace(b",", b" ").split()
            try:
                kept.append(int(words[-1], 16))
            except (IndexError, ValueError):
                continue
            if len(kept) == 1 << 16:
                kept = []
    return time.process_time() - start


def rows(mib: int, repeat: int) -> list[timing.Row]:
    """A row a format, medians."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in (*FILES, "champsim.xz", "npz"):
            path = Path(folder) / name.replace("champsim.xz", "x.champsim")
            if name == "npz":
                path = path.with_suffix(".npz")
                with path.open("wb") as file:
                    native.write(iter(traces.blocks(Path(folder) / "lackey.txt")), file)
            else:
                repeated(name, path, mib * MIB)
            runs = [reading(path) for _ in range(repeat)]
            text = name in FILES
            plain = [floor(path) for _ in range(repeat)] if text else []
            s, n = timing.median([r[0] for r in runs]), runs[0][1]
            found.append(
                {
                    "file": name,
                    "MB": path.stat().st_size / 1e6,
                    "accesses": n,
                    "s": s,
                    "MB/s": path.stat().st_size / 1e6 / s,
                    "accesses/s": n / s,
                    "x floor": s / timing.median(plain) if plain else "-",
                }
            )
    return found


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="4 MiB, once")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    found = rows(*((4, 1) if args.quick else (args.mib, args.repeat)))
    print(timing.table(found))
    if args.save:
        timing.save("traces", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
