"""Which kernel release has which behaviour, as one table.

A release is a name and a rank; a feature is the first release that has it.  The
posted series "v4" sits between 6.2 and 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass

RELEASES = [
    *("6.1", "6.2", "v4", "6.3", "6.5", "6.6"),
    *("6.7", "6.8", "6.10", "6.12", "6.18"),
]

# Feature -> first release that shows it.
FIRST = {
    "thp_means_pmd": "6.2",  # before, every large folio counts as a THP
    "batched": "v4",
    "async_first": "6.3",  # synchronous callers get an asynchronous first stage
    "skip_inaccessible": "6.5",  # no deferred flush for a PROT_NONE PTE
    "follow_protnone": "6.5",  # move_pages looks through PROT_NONE
    "longterm_counted_once": "6.5",
    "arm64_deferred": "6.6",
    "nr_split": "6.7",
    "hugetlb_tail": "6.7",
    "count_unisolated": "6.7",
    "split_defers_flush": "6.8",
    "split_partially_mapped": "6.10",
    "folio_walk": "6.12",
    "split_trylock": "6.12",
    "pieces_ascending": "6.18",
    "count_unisolated_ptes": "6.18",
    "mask_kept_at_switch": "6.18",
    "movable_not_freed": "6.18",
    "invlpgb": "6.18",
}


@dataclass(frozen=True)
class Release:
    """One kernel release; ``has`` answers every question about it."""

    name: str

    def has(self, feature: str) -> bool:
        """Whether this release shows the named feature."""
        return RELEASES.index(self.name) >= RELEASES.index(FIRST[feature])

    @property
    def policy(self) -> str:
        """The word used in result records."""
        return "batched" if self.has("batched") else "serial"


def expand(kernel: object) -> list[str]:
    """Turn a scenario's kernel value into release names, each once, in order."""
    if kernel is None or kernel == "both":
        return ["6.2", "6.3"]
    if isinstance(kernel, str):
        kernel = kernel.split(",")
    names: list[str] = []
    for item in kernel:  # type: ignore[attr-defined]
        names += expand(item) if item == "both" else [str(item).strip()]
    return list(dict.fromkeys(names))
