"""One published figure beside its prediction."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxmig.time.machines import Profile


@dataclasses.dataclass(frozen=True)
class Row:
    """One published figure and its prediction; `extra` has further fields for JSON.

    `fitted_before`, `fitted_after`: whether the prediction used the figure itself, or
    another figure of its table.
    """

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
    fitted_before: bool = False
    fitted_after: bool = False
    cause: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def predicted_change(self) -> float | None:
        """The predicted change in percent, None without a figure before or after."""
        if not self.predicted_before or self.predicted_after is None:
            return None
        return 100 * (self.predicted_after / self.predicted_before - 1)

    @property
    def fitted(self) -> bool:
        """Whether the figure that is compared is fitted."""
        after = self.published_after is not None or self.published_change is not None
        return self.fitted_after if after else self.fitted_before

    @property
    def published(self) -> tuple[float | None, float | None, float | None]:
        """The published figures: before, after, change."""
        return self.published_before, self.published_after, self.published_change

    @property
    def figure_id(self) -> str:
        """The id without the settings that the publication leaves open."""
        return self.id.removesuffix("-2048m").removesuffix("-hypothesis")

    @property
    def source_figure(self) -> str:
        """An id of the published figure: its kind and, where needed, `what`."""
        open_ = self.figure_id.startswith(("intel", "arm64-memhog", "arm64-bw"))
        same = open_ and not self.id.endswith("-profile")
        return self.figure_id if same else f"{self.figure_id}: {self.what}"

    @property
    def compares_change(self) -> bool:
        """Whether only a change was published."""
        return self.published_after is None and self.published_change is not None

    @property
    def compared(self) -> tuple[float, float] | None:
        """The published figure and the predicted one that `error` compares."""
        for pair in (
            (self.published_after, self.predicted_after),
            (self.published_change, self.predicted_change),
            (self.published_before, self.predicted_before),
        ):
            if pair[0] is not None and pair[1] is not None:
                return pair[0], pair[1]
        return None

    @property
    def error(self) -> float | None:
        """Error in percent, of the first of these that was published.

        The figure after batching, the change, the figure before.
        """
        if self.compared is None:
            return None
        published, predicted = self.compared
        return 100 * (predicted - published) / abs(published)

    def record(self) -> dict[str, Any]:
        """The row as plain data."""
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
            "fitted_before": self.fitted_before,
            "fitted_after": self.fitted_after,
        }
        if self.cause:
            made["cause"] = self.cause
        return made | dict(self.extra)


def inputs_of(profile: Profile, *keys: str) -> tuple[str, ...]:
    """Numbers of a profile with unit and source, one line each."""
    lines = []
    for key in keys:
        n = profile.numbers[key]
        lines.append(f"{profile.name} {key} = {n.value} {n.unit} ({n.source})")
    return tuple(lines)
