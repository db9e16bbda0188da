"""One published figure beside its prediction."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxmig.machines import Profile


@dataclasses.dataclass(frozen=True)
class Row:
    """One published figure and its prediction; `extra` goes into JSON as it is."""

    id: str
    what: str
    published_before: float | None
    published_after: float | None
    published_change: float | None  # percent
    predicted_before: float | None
    predicted_after: float | None
    unit: str
    kernel: str
    inputs: tuple[str, ...]
    source: str
    fitted: bool = False
    cause: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def predicted_change(self) -> float | None:
        """Percent."""
        if not self.predicted_before or self.predicted_after is None:
            return None
        return 100 * (self.predicted_after / self.predicted_before - 1)

    @property
    def error(self) -> float | None:
        """Percent: of the figure afterwards, of the change, or of the one before.

        The first of them that was published.
        """
        if self.published_after is not None and self.predicted_after is not None:
            return 100 * (self.predicted_after / self.published_after - 1)
        if self.published_change is None or self.predicted_change is None:
            return self._error_before
        gap = self.predicted_change - self.published_change
        return 100 * gap / abs(self.published_change)

    @property
    def _error_before(self) -> float | None:
        if self.published_before is None or self.predicted_before is None:
            return None
        return 100 * (self.predicted_before / self.published_before - 1)

    def record(self) -> dict[str, Any]:
        """The row as programs read it."""
        made: dict[str, Any] = {
            "id": self.id,
            "what": self.what,
            "published_before": self.published_before,
            "published_after": self.published_after,
            "published_change_percent": self.published_change,
            "predicted_before": self.predicted_before,
            "predicted_after": self.predicted_after,
            "predicted_change_percent": self.predicted_change,
            "unit": self.unit,
            "error_percent": self.error,
            "kernel": self.kernel,
            "inputs": list(self.inputs),
            "source": self.source,
            "fitted": self.fitted,
        }
        if self.cause:
            made["cause"] = self.cause
        return made | dict(self.extra)


def inputs_of(p: Profile, *keys: str) -> tuple[str, ...]:
    """Numbers of a profile with unit and source, one line each."""
    lines = []
    for key in keys:
        n = p.numbers[key]
        lines.append(f"{p.name} {key} = {n.value} {n.unit} ({n.source})")
    return tuple(lines)
