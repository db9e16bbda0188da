"""Colours, fonts and files that all pictures share.

Source of the colours: Okabe and Ito, Color Universal Design, 2008; the heat maps'
cividis: Nuñez, Anderton and Renslow, PLOS ONE 2018.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jaxmig.host import files
from jaxmig.host.refused import WrongUse
from jaxmig.time.machines.terms import PHASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
YELLOW: Final = "#F0E442"
BLUE: Final = "#0072B2"
VERMILLION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
BLACK: Final = "#000000"
GREY: Final = "#999999"
PALE: Final = "#E8E8E8"
# Lines: the darkest first, yellow last, which is hard to see on white.
SERIES: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
MARKERS: Final = "osD^vP*X"
MOST_NAMED: Final = 4  # kernels that a label lists
_PHASES: Final = (SKY, ORANGE, VERMILLION, BLUE, GREEN, GREY)
OF_PHASE: Final = dict(zip(PHASES, _PHASES, strict=True))
WIDE: Final = 20  # times the least: beyond that an axis is logarithmic
HEAT: Final = "cividis"
SUFFIXES: Final = (".png", ".svg")

_RC: Final[dict[str, Any]] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    # A legend stays readable where it covers lines.
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
    # Names of files and processes are no formulas, whatever dollar signs are in them.
    "text.parse_math": False,
    # Text that stays text can be searched and copied.
    "svg.fonttype": "none",
    # The same numbers give the same file.
    "svg.hashsalt": "jaxmig",
}


class PlotError(ValueError):
    """A picture that cannot be drawn; one line that says what to do."""


class PictureNameError(PlotError, WrongUse):
    """The name of a file that is no picture's."""


def check(path: str) -> None:
    """Raise PlotError for a picture that cannot be drawn, before the work."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise PictureNameError(f"{path!r}: pictures are .png or .svg; name such a file")
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotError("pictures need matplotlib; pip install matplotlib")


def figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    # Artists keep the settings of their construction: panels are drawn under `rc()` too.
    with matplotlib.rc_context(_RC):
        return Figure(figsize=(width, height), layout="constrained")


def rc() -> Any:
    """The settings under which panels are drawn."""
    import matplotlib

    return matplotlib.rc_context(_RC)


def save(made: "Figure", path: str) -> None:
    """The figure as a file of the kind that its suffix names.

    Raises:
      PlotError: it cannot be written.
    """
    # A date would make files of the same numbers differ.
    about = {"Date": None} if path.lower().endswith(".svg") else {}
    try:
        with rc(), files.written(path) as file:
            kind = path.rpartition(".")[2].lower()
            made.savefig(file, dpi=160, metadata=about, format=kind)
    except files.FileError as error:
        raise PlotError(f"{path}: {error}") from None


def powers_of_two(axes: "Axes", values: list[int]) -> None:
    """A logarithmic x axis whose ticks are the values, as long as they fit."""
    axes.set_xscale("log", base=2)
    shown = sorted(set(values)) or [1]
    # Labels closer than a ninth of the axis would overlap.
    apart = max(1.9, (shown[-1] / shown[0]) ** (1 / 9))
    ticks = shown[:1]
    for value in shown[1:]:
        if value >= ticks[-1] * apart * 0.99:
            ticks.append(value)
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()


def plain(value: float) -> str:
    """A number as people write it: never 1e+04, no zeros after a point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def named(kernels: Sequence[str]) -> str:
    """All of a few kernels, of many the first and the last."""
    if len(kernels) > MOST_NAMED:
        return f"{kernels[0]} ... {kernels[-1]}"
    return ", ".join(kernels)


def counts(axes: "Axes") -> None:
    """A y axis of counts from 0 on, logarithmic if they span much."""
    from matplotlib.ticker import FuncFormatter

    drawn = [float(y) for line in axes.lines for y in np.asarray(line.get_ydata())]
    low, high = min((y for y in drawn if y > 0), default=1.0), max(drawn, default=1.0)
    if high >= WIDE * low and min(drawn) > 0:
        axes.set_ylim(low / 1.5, high * 1.5)
        decades(axes)
        return
    if high >= WIDE * low:
        # Some counts are 0, which a plain logarithmic axis cannot show.
        axes.set_yscale("symlog", linthresh=1)
        exponents = range(len(str(int(high))))
        step = -(-len(exponents) // 6)
        axes.set_yticks([0, *(10**e for e in exponents[::step])])
    axes.set_ylim(0, (high or 1.0) * 1.15)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(y)))


def decades(axes: "Axes") -> None:
    """A logarithmic y axis with figures at its ticks, some of them in any range.

    Where nothing is above 0 the axis begins there: it would have no place on another.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes.lines):
        axes.set_ylim(0, 1)
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = high < 100 * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(y)))
    axes.yaxis.set_minor_formatter(NullFormatter())
