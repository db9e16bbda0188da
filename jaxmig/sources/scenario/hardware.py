"""The `[machine]` and `[[process]]` tables: nodes, CPUs, and the processes on them."""

from collections.abc import Callable

from jaxmig.sources.scenario.model import MachineSpec, ProcessSpec
from jaxmig.sources.scenario.table import TomlTable
from jaxmig.sources.scenario.words import (
    ENGINE,
    MAX_CPUS,
    MAX_MEMORY,
    MAX_NODES,
    size_text,
)

MACHINE_KEYS = (
    *("profile", "nodes", "cpus", "node_size", "free", "copy", "max_batch"),
    *("lru_gen", "compact_unevictable"),
)
PROCESS_KEYS = ("name", "running", "lazy", "left")

# From the name of a profile to its number of CPUs.  The text of its ValueError for an
# unknown name becomes the user's message.
ProfileCpus = Callable[[str], int]

MAX_BATCH = 1 << 30
_DEFAULT_CPUS = 4
_LEAST_NODE = 64 << 20


def parse_machine(
    table: TomlTable, profile_cpus: ProfileCpus | None, regions_size: int
) -> MachineSpec:
    """The machine, with what the file leaves out filled in.

    Args:
      profile_cpus: from a profile's name to its CPUs, for a file that does not say.
      regions_size: bytes of all regions, from which the default node size follows.
    """
    given = table.values.get("node_size")
    # Without `nodes` a list of sizes gives the number of nodes.
    nodes_implied = len(given) if isinstance(given, list) and given else 2
    too_many = f"a machine has at least one node and at most {MAX_NODES}"
    nodes = table.integer("nodes", nodes_implied, 1, MAX_NODES, too_many)
    profile = table.text("profile", "xeon-2s")
    cpus = _profile(table, profile, profile_cpus)
    too_many = f"a machine has at least one CPU and at most {MAX_CPUS}"
    cpus = table.integer("cpus", cpus, 1, MAX_CPUS, too_many)
    node_size = _node_size(table, nodes, regions_size)
    limit = f"base pages that close a batch, 0 to {MAX_BATCH}; 0 means no limit"
    what = "vm.compact_unevictable_allowed is 0 or 1"
    unevictable = table.integer("compact_unevictable", 1, 0, 1, what)
    return MachineSpec(
        profile,
        nodes,
        cpus,
        node_size,
        _free(table, node_size),
        _copy(table),
        table.integer("max_batch", 512, 0, MAX_BATCH, limit),
        lru_gen=table.boolean("lru_gen", False),
        compact_unevictable=bool(unevictable),
    )


def _copy(table: TomlTable) -> str:
    copy = table.text("copy", "cpu")
    if not ENGINE.fullmatch(copy):
        raise table.error("copy", "no copy engine; write cpu, threads:N or dma:N")
    return copy


def _profile(table: TomlTable, name: str, profile_cpus: ProfileCpus | None) -> int:
    if profile_cpus is None:
        return _DEFAULT_CPUS
    try:
        return profile_cpus(name)
    except ValueError as unknown:
        raise table.error("profile", str(unknown)) from None


def _node_size(table: TomlTable, nodes: int, regions_size: int) -> tuple[int, ...]:
    if "node_size" not in table:
        # Room for every region twice: memory ends only where a file limits it.
        roomy = max(_LEAST_NODE, 2 * regions_size)
        return (-(-roomy // (2 << 20)) * (2 << 20),) * nodes
    given = table.values["node_size"]
    if isinstance(given, list):
        sizes = tuple(table.as_size(v, "node_size", i) for i, v in enumerate(given))
        if len(sizes) != nodes:
            problem = f"{len(sizes)} sizes for {nodes} nodes; give one for each node"
            raise table.error("node_size", f"{problem}, or one string for all")
    else:
        sizes = (table.as_size(given, "node_size"),) * nodes
    if sum(sizes) > MAX_MEMORY:
        problem = f"all nodes together exceed {MAX_MEMORY >> 30}g"
        raise table.error("node_size", f"{problem}; frame numbers end there")
    return sizes


def _free(table: TomlTable, node_size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    given = table.values.get("free", {})
    if not isinstance(given, dict):
        raise table.wrong("free", 'a size for each node meant: { 1 = "1200k" }')
    free = []
    for node, value in given.items():
        # TOML's keys are strings; "01" would be a second name for node 1.
        known = node.isascii() and node.isdigit() and len(node) < 6
        if not known or str(int(node)) != node or int(node) >= len(node_size):
            problem = f"there is no such node; the nodes are {_span(len(node_size))}"
            raise table.error("free", problem, node)
        size = table.as_size(value, "free", node)
        room = node_size[int(node)]
        if size > room:
            problem = f"node {node} has only {size_text(room)}; free at most that"
            raise table.error("free", problem, node)
        free.append((int(node), size))
    return tuple(sorted(free))


def check_free(table: TomlTable, machine: MachineSpec, used: tuple[int, ...]) -> None:
    """Refuse more free memory than the regions, which take `used`, leave on a node."""
    for node, size in machine.free:
        left = machine.node_size[node] - used[node]
        if size > left:
            problem = f"the regions leave {size_text(left)} of node {node}"
            raise table.error("free", f"{problem}; free at most that", str(node))


def parse_processes(tables: list[TomlTable], cpus: int) -> tuple[ProcessSpec, ...]:
    """The processes, which have no CPU in common."""
    # One map for running and lazy CPUs of all processes: a CPU holds a single mm.
    owner: dict[int, str] = {}
    processes: dict[str, ProcessSpec] = {}
    for table in tables:
        table.need("name")
        name = table.text("name")
        if name in processes:
            raise table.error("name", "another process has this name; choose another")
        running = _cpus(table, "running", cpus, owner)
        lazy = _cpus(table, "lazy", cpus, owner)
        # CPUs in `left` may run another process, but not this one.
        mine = {cpu: owner[cpu] for cpu in running + lazy}
        left = _cpus(table, "left", cpus, mine)
        processes[name] = ProcessSpec(name, running, lazy, left)
    return tuple(processes.values())


def _cpus(
    table: TomlTable, key: str, count: int, owner: dict[int, str]
) -> tuple[int, ...]:
    """The CPUs under `key`; each is entered into `owner`, by CPU, and must be new."""
    listed = []
    for at, value in enumerate(table.array(key, "a list of CPUs: [1, 2]")):
        cpu = table.as_integer(value, key, at)
        if not 0 <= cpu < count:
            problem = f"there is no such CPU; the machine has {_span(count)}"
            raise table.error(key, problem, at)
        if cpu in owner:
            problem = f"CPU {cpu} is already in {owner[cpu]}; list it once in the file"
            raise table.error(key, problem, at)
        owner[cpu] = f"{key} of process {table.text('name')}"
        listed.append(cpu)
    return tuple(listed)


def _span(count: int) -> str:
    return f"0 to {count - 1}" if count > 1 else "only 0"
