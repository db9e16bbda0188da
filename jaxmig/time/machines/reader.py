"""TOML text to a checked `Profile`, and back.

A file either has all numbers, or names another profile as `base` and has those that
differ.  A number or an engine in the file replaces the base's whole entry.  Numbers of the
base that the file's architecture does not need are dropped.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, cast

from jaxmig.host import files
from jaxmig.host.terminal import printable
from jaxmig.time.machines.profile import (
    ASSUMED,
    Arch,
    Bound,
    Engine,
    Number,
    Profile,
    ProfileError,
    RateTable,
)
from jaxmig.time.machines.schema import (
    ARCHS,
    ENGINES,
    LATER,
    SCHEMA,
    SHAPE,
    SHARES,
    required,
)

_WORKERS = re.compile(r"[0-9]{1,6}").fullmatch
MOST = 10**9  # ns: no event takes longer than a second
_TOP = frozenset({"title", "arch", "base", "dvfs", "engine"})
_SECTIONS = frozenset(key.split(".")[0] for key in SCHEMA)
_NUMBER = frozenset({"value", "unit", "source", "low", "high"})
_TABLE = frozenset({"unit", "source", "baseline", "copy_share", "rates"})


def parse(text: str, name: str, where: str, base: Callable[[str], Profile]) -> Profile:
    """The profile that TOML `text` describes.

    Args:
      name: of the profile.
      where: name of the file in errors.
      base: loads the profile that the file names as its base.
    Returns:
      The checked profile.
    Raises:
      ProfileError: not TOML, unknown or missing keys, a number without unit or source,
        an assumed one without a range, a value outside its range.
    """
    try:
        doc = files.toml(text)
    except files.FileError as error:
        raise ProfileError(f"{where}: {error}") from None
    for key in doc.keys() - _TOP - _SECTIONS:
        _fail(where, key, f"unknown key; known are {_listed(_TOP | _SECTIONS)}")
    parent = base(_text(doc, "base", where)) if "base" in doc else None
    arch = _text(doc, "arch", where) if "arch" in doc or not parent else parent.arch
    if arch not in ARCHS:
        _fail(where, "arch", f"{arch!r} is none of {', '.join(ARCHS)}")
    if doc.get("dvfs", False) is not False:
        _fail(where, "dvfs", "frequency scaling is not modelled; leave it out or false")
    profile = Profile(
        name=name,
        title=_text(doc, "title", where),
        arch=cast(Arch, arch),  # one of ARCHS, checked above
        numbers=MappingProxyType(_numbers(doc, arch, parent, where)),
        engines=MappingProxyType(_engines(doc, parent, where)),
    )
    _check_together(profile, where)
    return profile


def dumps(profile: Profile) -> str:
    """`profile` as TOML, from which `parse` makes an equal one."""
    lines = [f"title = {_quote(profile.title)}", f"arch = {_quote(profile.arch)}"]
    section = ""
    for key in sorted(profile.numbers, key=list(SCHEMA).index):
        head, _, short = key.partition(".")
        if head != section:
            section = head
            lines += ["", f"[{section}]"]
        lines.append(f"{short} = {_inline(profile.numbers[key])}")
    for engine in profile.engines.values():
        for size, table in (("small", engine.small), ("huge", engine.huge)):
            if table is not None:
                lines += ["", f"[engine.{engine.name}.{size}]", *_table_lines(table)]
    return "\n".join(lines) + "\n"


def _numbers(
    doc: Mapping[str, Any], arch: str, parent: Profile | None, where: str
) -> dict[str, Number]:
    """All numbers of the file and its base, exactly those that `arch` needs."""
    needed = required(arch)
    inherited = parent.numbers if parent else {}
    numbers = {key: n for key, n in inherited.items() if key in needed}
    for section in sorted(_SECTIONS & doc.keys()):
        if not isinstance(doc[section], dict):
            _fail(where, section, "must be a table of numbers")
        for short, raw in doc[section].items():
            key = f"{section}.{short}"
            if key not in needed:
                known = [k for k in SCHEMA if k in needed and k.startswith(section)]
                _fail(where, key, f"unknown for {arch}; known are {_listed(known)}")
            numbers[key] = _number(raw, key, where)
    missing = sorted(needed - numbers.keys() - LATER.keys())
    if missing:
        _fail(where, missing[0], f"missing; add it in {SCHEMA[missing[0]].unit}")
    return numbers


def _number(raw: Any, key: str, where: str) -> Number:
    """One checked number; see `Number` for its fields."""
    if not isinstance(raw, dict):
        _fail(where, key, "write { value = …, unit = …, source = … }")
    for extra in raw.keys() - _NUMBER:
        _fail(where, f"{key}.{extra}", f"unknown key; known are {_listed(_NUMBER)}")
    unit, source = _text(raw, "unit", where, key), _text(raw, "source", where, key)
    if unit != SCHEMA[key].unit:
        _fail(where, f"{key}.unit", f"{unit!r}; give it in {SCHEMA[key].unit!r}")
    value = _amount(raw, "value", where, key)
    has = ("low" in raw, "high" in raw)
    if any(has) != all(has) or (source.startswith(ASSUMED) and not all(has)):
        # Without bounds the printed range would treat a guess like a measurement.
        _fail(where, key, "give both low and high")
    if not all(has):
        return Number(value, unit, source)
    low, high = (_amount(raw, end, where, key) for end in ("low", "high"))
    if not low <= value <= high:
        _fail(where, key, f"{low} <= {value} <= {high} does not hold; mend the range")
    return Number(value, unit, source, low, high)


def _amount(raw: Mapping[str, Any], part: str, where: str, key: str) -> int | float:
    value = raw.get(part)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _fail(where, f"{key}.{part}", "missing or not a number")
    if not 0 <= value < math.inf:
        _fail(where, f"{key}.{part}", f"{_short(value)}: give a finite number >= 0")
    if value > MOST:
        _fail(where, f"{key}.{part}", f"{_short(value)}: give at most {MOST:,}")
    if key in SHAPE and (not isinstance(value, int) or value < 1):
        _fail(where, f"{key}.{part}", f"{value}: give a whole number >= 1")
    if key in SHARES and value > 100:
        _fail(where, f"{key}.{part}", f"{_short(value)}: give at most 100 %")
    return value


def _short(value: int | float) -> str:
    """A number for a message, shortened if it has hundreds of digits."""
    long = isinstance(value, int) and value.bit_length() > 64
    return f"a number of {value.bit_length()} bits" if long else f"{value:g}"


def _engines(
    doc: Mapping[str, Any], parent: Profile | None, where: str
) -> dict[str, Engine]:
    engines = dict(parent.engines) if parent else {}
    given = doc.get("engine", {})
    if not isinstance(given, dict):
        _fail(where, "engine", "must be a table")
    for name, sizes in given.items():
        if name not in ENGINES or not isinstance(sizes, dict):
            _fail(where, f"engine.{name}", f"must be a table, {' or '.join(ENGINES)}")
        for size in sizes.keys() - {"small", "huge"}:
            _fail(where, f"engine.{name}.{size}", "unknown key; known are huge, small")
        small, huge = (
            _table(sizes[size], f"engine.{name}.{size}", where)
            if size in sizes
            else None
            for size in ("small", "huge")
        )
        engines[name] = Engine(name, small, huge)
    return engines


def _table(raw: Any, key: str, where: str) -> RateTable:
    if not isinstance(raw, dict) or raw.keys() != _TABLE:
        _fail(where, key, f"must have exactly {_listed(_TABLE)}")
    if _text(raw, "unit", where, key) != "GB/s":
        _fail(where, f"{key}.unit", "give the rates in 'GB/s'")
    rates = raw["rates"]
    if not isinstance(rates, dict) or not rates or not all(map(_WORKERS, rates)):
        _fail(where, f"{key}.rates", "write { 1 = …, 2 = … }, GB/s by workers")
    table = RateTable(
        baseline=_amount(raw, "baseline", where, key),
        copy_share=_amount(raw, "copy_share", where, key),
        rates=tuple(sorted((int(n), _amount(rates, n, where, key)) for n in rates)),
        unit="GB/s",
        source=_text(raw, "source", where, key),
    )
    if not (0 < table.copy_share <= 1 and table.baseline > 0 and table.rates[0][0] > 0):
        _fail(where, key, "needs baseline > 0, 0 < copy_share <= 1, workers >= 1")
    for _, rate in table.rates:
        # The call would take less time than its parts other than the copy.
        if rate <= 0 or rate * (1 - table.copy_share) >= table.baseline:
            _fail(where, f"{key}.rates", f"{rate}: impossible with this copy_share")
    return table


def _check_together(profile: Profile, where: str) -> None:
    """Refuse numbers that contradict each other."""
    bounds: tuple[Bound, ...] = ("value", "low", "high")
    for bound in bounds:
        p = profile.at(bound)
        if p["cost.move_check"] > p["cost.switch"]:
            _fail(where, "cost.move_check", "is part of cost.switch; make it no larger")
        if p["cost.batch_gain"] > p["cost.bookkeeping"] + p["cost.switch"]:
            _fail(where, "cost.batch_gain", "exceeds cost.bookkeeping + cost.switch")
    if max(profile.running, profile.nodes) > profile.cpus:
        _fail(where, "machine.cpus", "fewer than machine.running or machine.nodes")


def _text(raw: Mapping[str, Any], part: str, where: str, key: str = "") -> str:
    value = raw.get(part)
    if not isinstance(value, str) or not value.strip():
        _fail(where, f"{key}.{part}" if key else part, "missing or not a text; add it")
    if not value.isprintable():
        _fail(where, f"{key}.{part}" if key else part, "has control characters")
    return value


def _inline(number: Number) -> str:
    ends = "" if number.low is None else f", low = {number.low}, high = {number.high}"
    unit, source = _quote(number.unit), _quote(number.source)
    return f"{{ value = {number.value}, unit = {unit}, source = {source}{ends} }}"


def _table_lines(table: RateTable) -> list[str]:
    rates = ", ".join(f"{n} = {rate}" for n, rate in table.rates)
    return [
        f"unit = {_quote(table.unit)}",
        f"source = {_quote(table.source)}",
        f"baseline = {table.baseline}",
        f"copy_share = {table.copy_share}",
        f"rates = {{ {rates} }}",
    ]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a TOML basic string escapes alike


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


def _fail(where: str, key: str, problem: str) -> NoReturn:
    raise ProfileError(f"{where}: {printable(key[:80])}: {problem}")
