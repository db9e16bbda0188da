"""Machine profiles: TOML files with the sizes of a machine and the costs of its events.

`names()` lists the profiles in the package; `load()` reads one of them or a user's own
file.  Each number has its unit and its source; an assumed one has bounds instead.
"""

from importlib import resources
from pathlib import Path

from jaxmig.host import files
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
from jaxmig.time.machines.reader import dumps, parse
from jaxmig.time.machines.schema import SCHEMA, required

__all__ = [
    "ASSUMED",
    "SCHEMA",
    "Arch",
    "Bound",
    "Engine",
    "Number",
    "Profile",
    "ProfileError",
    "RateTable",
    "dumps",
    "load",
    "names",
    "required",
]


def names() -> list[str]:
    """The profiles in the package, sorted."""
    # importlib.resources, not __file__: the package may be in a zipped wheel.
    entries = [entry.name for entry in resources.files(__name__).iterdir()]
    return sorted(f.removesuffix(".toml") for f in entries if f.endswith(".toml"))


def load(name_or_path: str | Path) -> Profile:
    """The profile of that name, or the one in that .toml file.

    Raises:
      ProfileError: neither exists, or the file is not valid; one line with the file,
        the key and what to do.
    """
    return _load(name_or_path, ())


def _load(name_or_path: str | Path, above: tuple[str, ...]) -> Profile:
    where = str(name_or_path)
    if where in above:
        raise ProfileError(
            f"{above[0]}: base: {where} builds on itself; break the circle"
        )

    def base(name: str) -> Profile:
        return _load(name, (*above, where))

    if where in names():
        text = (resources.files(__name__) / f"{where}.toml").read_text("utf-8")
        return parse(text, where, f"{where}.toml", base)
    if not where.endswith(".toml"):
        known = ", ".join(names())
        raise ProfileError(f"{where}: no such machine; use a .toml file or {known}")
    try:
        text = files.text(where)
    except files.FileError as error:
        raise ProfileError(f"{where}: {error}; give a readable .toml file") from error
    return parse(text, Path(where).stem, where, base)
