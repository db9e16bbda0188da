"""Sets of nodes and CPUs, as written on a command line.

Node strings follow libnuma: `0`, `0,2`, `0-3`, `all`, `!0` (all but), `+0` (relative to
the nodes that the caller may use, which in a model are all of them).

Source: numa_parse_nodestring() in libnuma.c of numactl.
"""

import re
from collections.abc import Iterable
from typing import Final

from jaxmig.host.refused import Refused

# strtoul() with base 0 reads all three spellings.
_NUMBER: Final = r"(?:0[xX][0-9a-fA-F]{1,8}|[0-9]{1,9})"
_PART: Final = re.compile(rf"({_NUMBER})(?:-({_NUMBER}))?")
_CPUS: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


class NodeError(Refused, ValueError):
    """A set of nodes or CPUs that cannot be read; one line that says what to write."""


def parse(text: str, nodes: int, more: str = "") -> tuple[int, ...]:
    """The nodes that `text` names on a machine of `nodes` nodes, ascending.

    An empty string is an empty set, as with libnuma.

    Args:
      text: a node string.
      nodes: of the machine.
      more: what gives it more nodes, such as `--nodes `; "" if nothing does.
    Raises:
      NodeError: not a node string, or a node that the machine lacks.
    """
    inverted = text.startswith("!")
    body = text.removeprefix("!").removeprefix("+")
    named = set(range(nodes)) if body == "all" else _named(text, body, nodes, more)
    return tuple(sorted(set(range(nodes)) - named if inverted else named))


def _named(text: str, body: str, nodes: int, more: str) -> set[int]:
    found: set[int] = set()
    for part in body.split(",") if body else ():
        match = _PART.fullmatch(part)
        if not match:
            raise NodeError(
                f"{text!r} is no set of nodes; write one like 0 or 0,1 or 0-3 or all "
                "or !0"
            )
        first = _number(match[1])
        last = _number(match[2]) if match[2] else first
        most = max(first, last)
        if most >= nodes:
            has = f"nodes 0-{nodes - 1}" if nodes > 1 else "node 0 only"
            advice = (
                f"give {more}{most + 1} or another node" if more else "name another"
            )
            raise NodeError(f"{text!r}: node {most}: the machine has {has}; {advice}")
        # libnuma sets the first bit before it looks at the range: 3-1 is just 3.
        found |= {first, *range(first, last + 1)}
    return found


def _number(text: str) -> int:
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    try:
        return int(text, 8 if text.startswith("0") else 10)
    except ValueError:
        line = f"{text!r} begins with 0, so it is octal and has no 8 or 9"
        raise NodeError(f"{line}; leave the 0 out") from None


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPU numbers written as the kernel prints masks, `1-3,7`, or `none`.

    Raises:
      NodeError: not a list of CPUs.
    """
    if text in ("none", ""):
        return ()
    found: set[int] = set()
    for part in text.split(","):
        match = _CPUS.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last > 1 << 20:
            raise NodeError(
                f"{text!r} is no list of CPUs; write one like 1-3,7 or none"
            )
        found |= set(range(first, last + 1))
    return tuple(sorted(found))


def fold(numbers: Iterable[int], size: int) -> tuple[int, ...]:
    """CPUs of a larger machine on one of `size` CPUs, modulo its size."""
    return tuple(sorted({n % size for n in numbers}))
