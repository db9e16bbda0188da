"""From a file to a `Scenario`: read the text, then each kind of table in turn."""

import functools
import os
import re
import tomllib
from pathlib import Path

from jaxmig.host.terminal import printable
from jaxmig.linux.releases import RELEASES, expand
from jaxmig.sources.scenario.calls import CALL_KEYS, parse_calls
from jaxmig.sources.scenario.errors import ScenarioError, clip, error_at, suggest
from jaxmig.sources.scenario.hardware import (
    MACHINE_KEYS,
    PROCESS_KEYS,
    ProfileCpus,
    check_free,
    parse_machine,
    parse_processes,
)
from jaxmig.sources.scenario.memory import (
    CONDITION_KEYS,
    REGION_KEYS,
    check_room,
    parse_conditions,
    parse_regions,
    sum_of_sizes,
)
from jaxmig.sources.scenario.model import Scenario
from jaxmig.sources.scenario.table import TomlTable

_KEYS = {
    "machine": MACHINE_KEYS,
    "process": PROCESS_KEYS,
    "region": REGION_KEYS,
    "condition": CONDITION_KEYS,
    "call": CALL_KEYS,
}
# Far above any scenario; an endless device file is refused.
_MAX_FILE = 64 << 20


def load(
    path: str | os.PathLike[str], *, profile_cpus: ProfileCpus | None = None
) -> Scenario:
    """Read and check a scenario file.

    Args:
      profile_cpus: from the name of a cost profile to its CPUs; raises ValueError for an
        unknown name.  None: any name is accepted and has 4 CPUs.
    Raises:
      ScenarioError: the file cannot be read or played.
    """
    name = os.fspath(path)
    # A path with a zero byte is a ValueError before it is any OSError.
    try:
        with Path(name).open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or str(failure)
        raise _file_error(name, f"{reason}; give a scenario file") from None
    if len(data) > _MAX_FILE:
        problem = f"longer than {_MAX_FILE >> 20} MiB; give a scenario file"
        raise _file_error(name, problem)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        byte = f"0x{data[failure.start]:02x}"
        problem = "this byte is not UTF-8; save the file as UTF-8 text"
        raise error_at(name, line, "byte", byte, problem) from None
    return loads(text, name, profile_cpus=profile_cpus)


def loads(
    text: str, path: str = "<string>", *, profile_cpus: ProfileCpus | None = None
) -> Scenario:
    """Check a scenario given as text; `path` is its name in errors.  See `load`."""
    root = TomlTable(path, text, (), _document(text, path))
    if not root.values:
        raise _file_error(path, "the file is empty; add a [[process]] and a [[call]]")
    root.only(("kernel", *_KEYS), _homes(()))
    # Keys are checked before values, so that a misspelt key is not reported as missing.
    regions_at = _tables(root, "region")
    machine_at = _machine_table(root)
    machine = parse_machine(machine_at, profile_cpus, sum_of_sizes(regions_at))
    processes = parse_processes(_tables(root, "process"), machine.cpus)
    names = [process.name for process in processes]
    regions = parse_regions(regions_at, names, machine)
    conditions = parse_conditions(_tables(root, "condition"), regions)
    used = check_room(regions_at, regions, conditions, machine)
    check_free(machine_at, machine, used)
    calls = parse_calls(_tables(root, "call"), names, regions, machine.cpus)
    return Scenario(
        path, _kernels(root), machine, processes, regions, conditions, calls, text
    )


def _document(text: str, path: str) -> dict[str, object]:
    """The parsed TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as failure:
        raise _syntax_error(text, path, str(failure)) from None
    except RecursionError:
        problem = "nested too deeply; a scenario needs lists in lists and no more"
        raise _file_error(path, problem) from None
    except ValueError:
        # Python refuses to read decimal numbers of thousands of digits.
        longest = max(re.finditer(r"[0-9_]+", text), key=lambda run: len(run[0]))
        line = text.count("\n", 0, longest.start()) + 1
        shown = clip(longest[0])
        problem = "this number is too long; give a smaller one"
        raise error_at(path, line, "number", shown, problem) from None


def _syntax_error(text: str, path: str, message: str) -> ScenarioError:
    """tomllib's message as an error at its line."""
    # tomllib counts the lines of the text with its line ends made uniform.
    lines = text.replace("\r\n", "\n").split("\n")
    place = re.search(r" \(at line ([0-9]+), column [0-9]+\)$", message)
    number = int(place[1]) if place else max(len(text.rstrip().split("\n")), 1)
    reason = message.removesuffix(" (at end of document)")
    if place:
        reason = message[: place.start()]
    shown = clip(printable(lines[number - 1].strip()[:200]))
    # The line itself stands where other errors have KEY = VALUE, as it often is that.
    problem = f"not TOML: {reason}; correct this line"
    return error_at(path, number, shown or "(empty line)", None, problem)


def _file_error(path: str, problem: str) -> ScenarioError:
    """An error of the whole file, without a line."""
    return ScenarioError(f"{printable(path)}: {problem}", path=path)


@functools.cache
def _homes(here: tuple[str, ...]) -> dict[str, str]:
    """By key, the tables in which it belongs, for keys that are not in `here`."""
    homes: dict[str, list[str]] = {"kernel": ["the lines above the first table"]}
    for table, keys in _KEYS.items():
        title = "[machine]" if table == "machine" else f"[[{table}]]"
        for key in keys:
            homes.setdefault(key, []).append(title)
    return {k: " or ".join(v) for k, v in homes.items() if k not in here}


def _machine_table(root: TomlTable) -> TomlTable:
    values = root.values.get("machine", {})
    if not isinstance(values, dict):
        raise root.error("machine", "a scenario has one machine; write [machine]")
    table = TomlTable(root.path, root.source, ("machine",), values)
    table.only(MACHINE_KEYS, _homes(MACHINE_KEYS))
    return table


def _tables(root: TomlTable, name: str) -> list[TomlTable]:
    """The tables of one name, with all their keys known."""
    tables = []
    given = root.values.get(name, [])
    if not isinstance(given, list):
        raise root.error(name, f"there may be several of these; write [[{name}]]")
    for number, values in enumerate(given):
        if not isinstance(values, dict):
            raise root.error(name, f"this is no table; write [[{name}]]", number)
        table = TomlTable(root.path, root.source, (name, number), values)
        table.only(_KEYS[name], _homes(_KEYS[name]))
        tables.append(table)
    return tables


def _kernels(root: TomlTable) -> tuple[str, ...]:
    """The releases of the file, in order and each once."""
    given = root.values.get("kernel", "both")
    releases: list[str] = []
    for number, word in enumerate(given if isinstance(given, list) else [given]):
        at = (number,) if isinstance(given, list) else ()
        if not isinstance(word, str):
            raise root.wrong("kernel", 'a release in quotes, as "6.3"', *at)
        try:
            releases.extend(expand([word]))
        except ValueError as error:
            # Its text begins with the value, which the error already has.
            problem = str(error).split(": ", 1)[1]
            if "one of" in problem:
                known = [*RELEASES, "both", "latest"]
                problem = f"unknown kernel; {suggest(word, known)}"
            raise root.error("kernel", problem, *at) from None
    if not releases:
        raise root.error("kernel", 'this names no kernel; write "6.3" or "both"')
    return tuple(dict.fromkeys(releases))
