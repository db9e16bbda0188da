"""Numbers with a unit, to three digits; a reduction is never rounded up to 100 %."""

from collections.abc import Callable, Iterable
from typing import Final

# Who makes a system call, by whether it is privileged.
CALLERS: Final = {True: "as root", False: "without CAP_SYS_NICE"}

_TIMES = ((1e9, " s"), (1e6, " ms"), (1e3, " us"), (1.0, " ns"))
_SCALES = ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))


def duration(ns: float) -> str:
    """A time given in ns, such as "8.25 ms"."""
    return _scaled(ns, _TIMES) if ns else "0 ns"


def seconds(time_s: float | None) -> str:
    """A time given in s; "-" for None, where it was not measured."""
    return "-" if time_s is None else duration(time_s * 1e9)


def rate(per_s: float) -> str:
    """Things per second, such as "436 k"."""
    return _scaled(per_s, _SCALES) if per_s else "0"


def count(n: int) -> str:
    """A count with its thousands apart."""
    return f"{n:,}"


def some(n: int, what: str) -> str:
    """A count of something, such as "1 page"."""
    return f"{count(n)} {what}{'' if n == 1 else 's'}"


def span(low: float, high: float, show: Callable[[float], str]) -> str:
    """Both ends of a range, each shown by `show`."""
    return f"{show(low)} .. {show(high)}"


def reduction(after: int, before: int) -> str:
    """How much less `after` is, in percent with two digits; "-" if `before` is 0.

    Never 100 while `after` is above 0: 99.997 % must not read as complete.
    """
    if before <= 0:
        return "-"
    hundredths = ((before - after) * 20_000 // before + 1) // 2
    if after > 0:
        hundredths = min(hundredths, 9_999)
    sign, size = ("-", -hundredths) if hundredths < 0 else ("", hundredths)
    return f"{sign}{size // 100}.{size % 100:02d} %"


def cpu_list(cpus: Iterable[int]) -> str:
    """CPU numbers as the kernel prints masks: "1-4,7"; "none" without any."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs) or "none"


def _scaled(value: float, scales: tuple[tuple[float, str], ...]) -> str:
    # 999.5 would print as 1e+03, so it belongs to the next larger unit.
    fits = [pair for pair in scales if abs(value) >= 0.9995 * pair[0]]
    scale, unit = fits[0] if fits else scales[-1]
    return f"{value / scale:.3g}{unit}"
