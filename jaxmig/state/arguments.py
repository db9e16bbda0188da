"""Arguments of the Python API: numbers and lists of folios, checked in one place.

A wrong argument gives the same ValueError everywhere: its name, its value and what it
may be.  While JAX traces, values are not known; then numbers and frames are clipped to
their range, so that a compiled call always ends and writes nothing outside the machine.
That traced folios are heads in use and listed once, the caller must see to.
"""

from collections.abc import Iterable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from jaxmig.state import frame
from jaxmig.state.machine import Machine

MOST: Final = 2**31 - 1  # int32
WORD: Final = 2**64 - 1  # what a register holds, as a user passes it
SIGNED: Final = -(2**63)


def whole(name: str, value: Any, least: int, most: int = MOST, has: str = "") -> Any:
    """A whole number as int; one that is traced as int32, clipped to its range.

    Args:
      name: the argument's, for the message.
      value: of Python, numpy or jax; a scalar.
      least, most: both allowed.
      has: what the machine has, for the message.
    Returns:
      int, or int32 while traced.
    Raises:
      ValueError: it is no whole number, or out of range.
    """
    if isinstance(value, jax.core.Tracer):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.integer):
            kind = f"{value.dtype}{list(value.shape)}"
            raise ValueError(f"{name} is {kind} while traced: give a whole number")
        return jnp.clip(value, least, most).astype(jnp.int32)
    # bool is an int to Python, but no number of pages or nodes.
    number = np.asarray(value) if isinstance(value, jax.Array) else value
    if isinstance(number, np.ndarray) and number.shape == ():
        number = number[()]
    if isinstance(number, bool | np.bool_) or not isinstance(number, int | np.integer):
        what = f"{type(value).__name__} {value!r:.40}"
        raise ValueError(f"{name} is {what}: give a whole number")
    if not least <= number <= most:
        what = f"the machine has {has}; " if has else ""
        raise ValueError(f"{name} {number}: {what}must be {least} to {most}")
    return int(number)


def numbers(
    name: str,
    values: Any,
    least: int = SIGNED,
    most: int = WORD,
    *,
    each: str = "",
    has: str = "",
) -> list[int]:
    """The whole numbers of a list, a set or an array of one dimension.

    Args:
      each: one of them, for the message; `name[i]` if left out.
      least, most, has: as for `whole`.
    Raises:
      ValueError: it is none, or one of them is no whole number or out of range.
    """
    made = None
    if isinstance(values, jax.Array | np.ndarray):
        made = np.asarray(values).tolist() if values.ndim == 1 else None
    elif isinstance(values, Iterable) and not isinstance(values, str | bytes | dict):
        made = list(values)
    if made is None:
        what = f"{type(values).__name__} {values!r:.40}"
        raise ValueError(f"{name} is {what}: give a list of whole numbers")
    # Lists of millions are common, and nearly all of them are right.
    plain = all(type(v) is int for v in made)
    if plain and (not made or (least <= min(made) and max(made) <= most)):
        return made
    return [
        whole(each or f"{name}[{i}]", v, least, most, has) for i, v in enumerate(made)
    ]


def node_set(name: str, nodes: Any) -> frozenset[int]:
    """Nodes as a call gets them; whether the machine has them Linux says.

    Raises:
      ValueError: for what is no set or list of whole numbers.
    """
    return frozenset(numbers(name, nodes))


def allowed(name: str, nodes: Any) -> frozenset[int] | None:
    """The same of a cpuset, where None stands for all nodes."""
    return None if nodes is None else node_set(name, nodes)


def register(name: str, value: Any) -> int | None:
    """What a user passes in a register, if he passes it. Raises ValueError."""
    return None if value is None else whole(name, value, SIGNED, WORD)


def machine(state: Any) -> None:
    """Raises ValueError for what is no machine."""
    if not isinstance(state, Machine):
        what = f"{type(state).__name__} {state!r:.40}"
        raise ValueError(f"state is {what}: give a Machine, as Builder.build() makes")


def text(name: str, value: Any) -> None:
    """Raises ValueError for what is no text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__} {value!r:.40}: give text")


def one_of(name: str, value: Any, known: Any) -> Any:
    """`value`, if it is one of `known`.

    Raises:
      ValueError: it is not.
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} {value!r:.40}: one of {' '.join(known)}")
    return value


def node(state: Machine, value: Any) -> Any:
    """A node of the machine; see `whole`."""
    machine(state)
    n = state.geometry.nodes
    return whole("node", value, 0, n - 1, f"{n} nodes")


def cpu(state: Machine, value: Any) -> Any:
    """A CPU of the machine; see `whole`."""
    n = state.cpus.lazy.shape[-1]
    return whole("cpu", value, 0, n - 1, f"{n} CPUs")


def frames(state: Machine, folios: Any) -> Any:
    """A list as int32[folios], its frames in the machine.

    Raises:
      ValueError: for what is no list of whole numbers, and frames that do not exist.
    """
    machine(state)
    most = state.geometry.frames - 1
    if isinstance(folios, jax.core.Tracer):
        if folios.ndim != 1 or not jnp.issubdtype(folios.dtype, jnp.integer):
            kind = f"{folios.dtype}{list(folios.shape)}"
            raise ValueError(f"folios is {kind} while traced: give int32[folios]")
        return jnp.clip(folios, 0, most).astype(jnp.int32)
    try:
        given = np.asarray(folios)
    except ValueError:  # of lists of several lengths
        raise ValueError("folios is no list: give a list of frames") from None
    if given.size == 0 and given.ndim <= 1:
        return np.zeros(0, np.int32)
    if given.ndim != 1:
        raise ValueError(f"folios has {given.ndim} dimensions: give a list of frames")
    if given.dtype.kind not in "iu":
        wrong = _first_odd(given)
        raise ValueError(f"folios[{wrong}] is {given[wrong]!r:.40}: no whole number "
                         f"within 0 to {most}")  # fmt: skip
    outside = (given < 0) | (given > most)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"folios[{i}] is frame {given[i]}: must be 0 to {most}")
    if isinstance(folios, jax.Array) and folios.dtype == jnp.int32:
        return folios  # stays where it is
    return given.astype(np.int32, copy=False)


def _first_odd(given: np.ndarray) -> int:
    """The place of the first value that is no int32, for a message."""
    for i, value in enumerate(given.tolist()):
        if type(value) is not int or abs(value) > MOST:
            return i
    return 0


def listed_once(heads: Any, name: str = "folios") -> None:
    """Refuses a list that names a folio twice.

    Args:
      heads: int32[folios], known and within the machine.
    Raises:
      ValueError: with the first frame that comes again.
    """
    given = np.asarray(heads)
    # Most lists ascend, which is seen without sorting.
    if given.size < 2 or (given[1:] > given[:-1]).all():
        return
    # By frame, its first place on the list: written last.  Sorting takes ten times as long.
    place = np.arange(given.size)
    first = np.empty(int(given.max()) + 1, place.dtype)
    first[given[::-1]] = place[::-1]
    again = first[given] != place
    if again.any():
        i = int(again.argmax())
        raise ValueError(f"{name}[{i}] is frame {given[i]}, which is listed before")


def in_use(heads: Any, flags: Any, name: str = "folios") -> None:
    """Refuses frames that are free or within a folio.

    Args:
      heads: int32[folios].
      flags: their flag words, see frame.py.
    Raises:
      ValueError: with the first such frame.
    """
    free = frame.kind(flags) == frame.FREE
    wrong = free | frame.has(flags, frame.TAIL)
    if not wrong.any():
        return
    i = int(wrong.argmax())
    what = "free" if free[i] else "a tail: name the folio by its first frame"
    raise ValueError(f"{name}[{i}] is frame {np.asarray(heads)[i]}, which is {what}")


def folios(state: Machine, given: Any, size: Any = None) -> tuple[Any, Any]:
    """A list of folios and its size, checked as far as they are known.

    Args:
      given: head frames in list order.
      size: how many of them are on the list; all if None.
    Returns:
      int32[folios] and the size.
    Raises:
      ValueError: for frames that do not exist, are free or tails, or are listed twice,
        and for a size beyond the list.
    """
    heads = frames(state, given)
    size = heads.shape[0] if size is None else whole("size", size, 0, heads.shape[0])
    known = not isinstance(heads, jax.core.Tracer) and isinstance(size, int)
    if known and size:
        some = np.asarray(heads)[:size]
        listed_once(some)
        if not isinstance(state.frame, jax.core.Tracer):
            in_use(some, flags_of(state.frame, some))
    return heads, size


def flags_of(rows: Any, heads: np.ndarray) -> np.ndarray:
    """Flag words of some rows of a frame table that lies on one device or the host."""
    if isinstance(rows, jax.Array) and not _on_cpu(rows):
        # Gathered on the device: the table itself is not copied to the host.
        return np.asarray(rows[jnp.asarray(heads), frame.FLAGS])
    return np.asarray(rows)[heads, frame.FLAGS]


def _on_cpu(array: jax.Array) -> bool:
    return all(d.platform == "cpu" for d in array.devices())
