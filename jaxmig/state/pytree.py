"""`@pytree`: a frozen dataclass that JAX can trace, with shape-checked fields.

JAX rebuilds registered dataclasses through `__init__`, with placeholders that are not
arrays; a shape checker then refuses them (jaxtyping #277, jax #25486).  Rebuilt without
`__init__`, fields are checked when code builds an object, not when JAX does.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the pytree's type: a new value recompiles."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and a pytree; `static()` fields are its type."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = [f.name for f in fields if not f.metadata.get("static")]
    meta = [f.name for f in fields if f.metadata.get("static")]

    def flatten(tree: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children = tuple(getattr(tree, n) for n in data)
        return children, tuple(getattr(tree, n) for n in meta)

    def flatten_with_keys(tree: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        keyed = tuple((jax.tree_util.GetAttrKey(n), getattr(tree, n)) for n in data)
        return keyed, tuple(getattr(tree, n) for n in meta)

    def unflatten(aux: tuple[Any, ...], children: Iterable[Any]) -> T:
        x = object.__new__(cls)
        for name, value in zip(data + meta, (*children, *aux), strict=True):
            object.__setattr__(x, name, value)
        return x

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
