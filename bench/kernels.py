"""What a GPU would run for a call, by XLA's own compiler for GPUs; no GPU is needed.

JAX compiles for a GPU that is only described (`jax.experimental.topologies`), which takes
the packages of the extra `cuda`.  Counted are kernels that every call starts, the times
that it waits for the host (a loop or a branch of which the data decide), and copies of
whole arrays of the machine, which cost what the machine is large.  Times need a GPU:
`accelerator.py`.
"""

import argparse
import math
import re
import sys
from collections import Counter
from typing import Any, Final

import checkout  # noqa: F401  before jaxmig
import jax
import jax.numpy as jnp
import mixes
import timing
from jax.experimental import topologies
from jaxmig.engine.migrate import program, uncoupled
from jaxmig.linux.releases import RELEASES
from jaxmig.linux.rules import rules, word
from jaxmig.state import lanes

# What XLA asks of a device: an H100's numbers, as NVIDIA publishes them.
TARGET: Final = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3350000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
NO_KERNEL: Final = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
)
OPERATION: Final = re.compile(r"%(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(")
WIDTHS: Final = {"pred": 1, "s8": 1, "u8": 1, "s64": 8, "u64": 8}
LAYOUTS: Final = {"base": mixes.Layout()} | {
    k: m.layout for k, m in mixes.MIXES.items()
}


def compiled(
    device: Any, layout: mixes.Layout, pages: int, kernel: str, content: bool = False
) -> Any:
    """The call on a machine of this layout, compiled for `device`, and the machine."""
    m = layout.machine(pages, content)
    args, r = mixes.arguments(m, mixes.spread(m)), rules(kernel)
    safe = uncoupled(r, m, *args[2:4])
    there = jax.sharding.SingleDeviceSharding(device)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            jnp.shape(x), jnp.result_type(x), sharding=there
        ),
        (*args, word(r)),
    )
    made = program(r.defers, True, safe, chunk=lanes.WIDE).jitted(gpu=True)
    return made.lower(*shapes).compile(), m


def size(shape: str) -> int:
    """Bytes of a shape as HLO writes it, a tuple's together."""
    total = 0
    for kind, numbers in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape):
        rows = math.prod(int(n) for n in numbers.split(",") if n)
        total += rows * WIDTHS.get(kind, 4)
    return total


def counted(text: str, large: int) -> Counter[str]:
    """Kernels and waits of every call, and all copies of so many bytes.

    Args:
      text: a program compiled for a GPU, as HLO.
      large: bytes from which a copy counts.
    """
    found = re.split(r"\n(?=(?:ENTRY )?%\S+ \()", text)
    named = ((re.match(r"(ENTRY )?%(\S+) \(", body), body) for body in found)
    bodies = {name[2]: body for name, body in named if name}
    (entry,) = re.findall(r"ENTRY %(\S+) \(", text)
    total = Counter[str]()

    def count(name: str, times: int) -> None:
        """`times`: how often every call runs this; 0: only some do."""
        for line in bodies[name].splitlines():
            if not (what := OPERATION.search(line)) or what[3] in NO_KERNEL:
                continue
            inner = dict(re.findall(r"(body|condition|calls)=%([\w.-]+)", line))
            if what[3] == "while":
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                total["waits"] += 0 if trips else times
                total["loops"] += not trips
                count(inner["body"], times * int(trips[1]) if trips else 0)
                count(inner["condition"], times)
            elif what[3] == "conditional":
                total["waits"] += times
                total["branches"] += 1
                for branch in re.findall(r"_computations?=\{?([^}, ]+[^}]*)", line):
                    for one in re.findall(r"%([\w.-]+)", branch.partition("), ")[0]):
                        if one in bodies:
                            count(one, 0)
            else:
                total["kernels"] += times
                total["all kernels"] += 1
                copies = what[3] == "copy" and size(what[2]) >= large
                total["large copies"] += copies

    count(entry, 1)
    return total


def row(device: Any, name: str, *how: Any) -> timing.Row:
    """What is counted of one call; `how`: pages, release, whether they have contents."""
    made, m = compiled(device, LAYOUTS[name], *how)
    pages, kernel, content = how
    # Arrays of lanes are smaller than the rows of all frames.
    totals = counted(made.as_text(), m.frame.nbytes)
    names = ("kernels", "waits", "all kernels", "loops", "branches", "large copies")
    memory = made.memory_analysis().temp_size_in_bytes
    return {
        "kernel": kernel,
        "what": name,
        "pages": pages,
        "contents": content,
        **{what: totals[what] for what in names},
        "bytes of room a page": memory / pages,
    }


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = mixes.some_of(LAYOUTS)
    parser.add_argument("--mix", type=known, default=["base"], help="comma-separated")
    parser.add_argument("--pages", type=int, default=1 << 14, help="base pages")
    releases = mixes.some_of(RELEASES)
    parser.add_argument("--kernel", type=releases, default=mixes.KERNELS)
    parser.add_argument("--content", action="store_true", help="copy pages, too")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    try:
        here = topologies.get_topology_desc(
            platform="cuda", target_config=TARGET, topology="1x1x1"
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        sys.exit(f"kernels: no compiler for GPUs ({why}); pip install '.[cuda]'")
    rows = [
        row(here.devices[0], name, args.pages, kernel, args.content)
        for name in args.mix
        for kernel in args.kernel
    ]
    print(timing.table(rows))
    if args.save:
        timing.save("kernels", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
