"""Records the traces beside this script. Linux, as root, with gcc, valgrind, perf,
trace-cmd and a kernel with DAMON running.

  python tests/data/traces/record.py

What no tool here could write says so in its first lines and was written by hand after
the tools' sources: perf-mem.txt (memory events need a CPU's own counters) and view.txt
(DynamoRIO); so are the two instructions of champsim.xz below.
"""

import lzma
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TRACEFS = Path("/sys/kernel/tracing")
FAULT = "events/exceptions/page_fault_user/enable"
FIELDS = "comm,pid,tid,cpu,time,event,addr,phys_addr,weight,data_page_size"
# Without libc a trace of every access is a page long.
SMALL = """
static char memory[5 * 4096] __attribute__((aligned(4096)));
void _start(void) {
    for (int pass = 0; pass < 3; pass++)
        for (int i = 0; i < 4; i++)
            *(volatile int *)(memory + i * 4096 + 4 * pass) += pass;
    *(volatile long *)(memory + 4092) = 1; /* across two pages */
    __asm__ volatile("syscall" : : "a"(60), "D"(0));
}
"""
THREADS = """
#include <pthread.h>
#include <sys/mman.h>
static char *memory;
static void *touch(void *part) {
    for (int i = 0; i < 8; i++)
        memory[((long)part * 8 + i) * 4096 + 8 * i] = 1;
    return 0;
}
int main(void) {
    pthread_t other;
    memory = mmap(0, 16 * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_create(&other, 0, touch, (void *)1);
    touch(0);
    return pthread_join(other, 0);
}
"""


def run(*command: str) -> str:
    """Standard output of a command that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compiled(work: Path, name: str, text: str, *flags: str) -> str:
    """A program from C text."""
    source = work / f"{name}.c"
    source.write_text(text)
    run("gcc", "-O1", *flags, str(source), "-o", str(work / name))
    return str(work / name)


def perf(work: Path, program: str) -> None:
    """Page faults as samples, and as a tracepoint."""
    data = str(work / "perf.data")
    record = ("perf", "record", "-q", "-o", data)
    sample = ("-d", "-T", "-W", "--sample-cpu", "--phys-data", "--data-page-size")
    run(*record, *sample, "-e", "page-faults", "-c1", program)
    (HERE / "perf.txt").write_text(run("perf", "script", "-i", data, "-F", FIELDS))
    run(*record, "-e", "exceptions:page_fault_user", program)
    (HERE / "perf-fault.txt").write_text(run("perf", "script", "-i", data))


def ftrace(work: Path, program: str) -> None:
    """The same tracepoint as tracefs shows it, and as trace-cmd reports it."""
    name = Path(program).name
    (TRACEFS / "trace").write_text("")
    (TRACEFS / "options/record-tgid").write_text("1")
    (TRACEFS / FAULT).write_text("1")
    run(program)
    (TRACEFS / FAULT).write_text("0")
    lines = (TRACEFS / "trace").read_text().splitlines(True)
    kept = [x for x in lines if x.startswith("#") or x.split("-")[0].strip() == name]
    (HERE / "tracefs.txt").write_text("".join(kept))
    data = str(work / "trace.dat")
    run("trace-cmd", "extract", "-o", data)
    for file, flags in (("trace-cmd.txt", ()), ("trace-cmd-latency.txt", ("-l",))):
        lines = run("trace-cmd", "report", *flags, "-i", data).splitlines(True)
        kept = [x for x in lines if x.startswith("cpus=") or f"{name}-" in x]
        (HERE / file).write_text("".join(kept))
    (TRACEFS / "options/record-tgid").write_text("0")
    (TRACEFS / "trace").write_text("")


def damon(work: Path, damo: str) -> None:
    """What a kdamond that runs already reports, and damo's own files of it.

    Args:
      damo: the folder of damo's modules (3.4.3), which are no package.
    """
    data = str(work / "damon.data")
    watch = ("-a", "-e", "damon:damon_aggregated", "-o", data, "sleep", "20")
    run("perf", "record", "-q", *watch)
    text = run("perf", "script", "-i", data)
    sys.path.insert(0, damo)
    import _damo_records as records
    import _damon

    every = _damon.DamonIntervals(500_000, 5_000_000, 60_000_000)
    made, error = records.parse_damon_trace(text, "perf-script", every)
    assert made, error
    for snapshot in made[0].snapshots:
        hot = [r for r in snapshot.regions if r.nr_accesses.samples > 0][:5]
        snapshot.regions = snapshot.regions[:3] + hot
        snapshot.update_total_bytes()
    made[0].snapshots = made[0].snapshots[:3]
    records.write_json(made, HERE / "damon.json")
    records.write_json_compressed(made, HERE / "damon.zlib")
    records.write_perf_script(made, HERE / "damon-damo.txt")
    lines = enumerate(text.splitlines(True))
    kept = [x for i, x in lines if i < 4 or int(x.split()[-2]) > 0]
    (HERE / "damon-perf.txt").write_text("".join(kept[:20]))


def champsim() -> None:
    """Instructions as inc/trace_instruction.h of ChampSim lays them out, by struct."""
    instructions = (
        (
            0x401000,
            0,
            0,
            (1, 0),
            (2, 0, 0, 0),
            (0, 0),
            (0x7000_0010, 0x7000_1020, 0, 0),
        ),
        (0x401004, 1, 1, (0, 0), (0, 0, 0, 0), (0, 0), (0, 0, 0, 0)),
        (
            0x401008,
            0,
            0,
            (3, 0),
            (1, 0, 0, 0),
            (0x7000_2FF8, 0),
            (0x7000_0010, 0, 0, 0),
        ),
    )
    packed = [
        struct.pack("<Q2B2B4B2Q4Q", ip, branch, taken, *rd, *rs, *store, *load)
        for ip, branch, taken, rd, rs, store, load in instructions
    ]
    (HERE / "champsim.xz").write_bytes(lzma.compress(b"".join(packed)))


def main() -> None:
    """Everything that a tool writes; DAMON's only with the folder of damo."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        small = compiled(work, "small", SMALL, "-nostdlib", "-static")
        log = f"--log-file={HERE / 'lackey.txt'}"
        run("valgrind", "--tool=lackey", "--trace-mem=yes", log, small)
        threads = compiled(work, "threads", THREADS, "-pthread")
        time.sleep(0.1)
        perf(work, threads)
        ftrace(work, threads)
        champsim()
        if len(sys.argv) > 1:
            damon(work, sys.argv[1])


if __name__ == "__main__":
    main()
