"""Which kernel release has which behaviour, as one table.

A release is a name and a rank; a feature is the first release that has it, or a span
of releases, or a list of them.  The posted series "v4" sits between 6.2 and 6.3;
"batch-copy" is 6.18 with another way to copy.
"""

from __future__ import annotations

from dataclasses import dataclass

RELEASES = [
    *("6.1", "6.2", "v4", "6.3", "6.4", "6.5", "6.6", "6.7", "6.8", "6.10"),
    *("6.12", "6.13", "6.14", "6.15", "6.16", "6.17", "6.18.0", "6.18", "6.19"),
    *("7.0", "7.1", "7.2", "7.3", "batch-copy"),
]
LATEST = "7.3"
# Not part of a range: asked for by name alone.
NAMED = {"v4", "batch-copy", "6.18.0"}

# Feature -> first release that shows it.
FIRST = {
    "thp_means_pmd": "6.2",  # before, every large folio counts as a THP
    "batched": "v4",
    "async_first": "6.3",  # synchronous callers get an asynchronous first stage
    "skip_inaccessible": "6.4",  # no deferred flush for a PROT_NONE PTE
    "follow_protnone": "6.5",  # move_pages looks through PROT_NONE
    "longterm_counted_once": "6.5",
    "arm64_deferred": "6.6",
    "nr_split": "6.7",
    "hugetlb_tail": "6.7",
    "count_unisolated": "6.7",
    "hints_shared_thp": "6.7",
    "split_defers_flush": "6.8",
    "split_partially_mapped": "6.10",
    "hugetlb_cache_by_page": "6.10",
    "hints_by_pin": "6.10",  # before, by an exact reference count
    "folio_walk": "6.12",
    "split_trylock": "6.12",
    "zero_pieces": "6.12",
    "copy_can_fail": "6.12",
    "demotion_lowers_once": "6.12",
    "offline_descends": "6.12",
    "damon": "6.12",
    "mask_kept_at_switch": "6.14",
    "pieces_ascending": "6.15",
    "shared_exactly": "6.15",
    "gives_up_dirty": "6.15",
    "unmap_asks_no_access": "6.15",
    "invlpgb": "6.15",
    "count_unisolated_ptes": "6.16",
    "damon_falls_back": "6.17",
    "movable_not_freed": "6.18.0",
    "hints_no_pinned": "6.19",
    "unmaps_file_runs": "7.0",
    "demotion_mask_kept": "7.1",
    # What callers list, 16.2 and 16.3.
    "finishes_block": "6.3",
    "finishes_for_hints": "6.5",
    "remembers_scanned_block": "6.6",
    "compacts_large": "6.10",
    "unevictable_trylock": "6.10",
    "flush_by_folio_batch": "6.10",
}
# Feature -> first and last release.
SPAN = {"guesses_shared": ("6.10", "6.14")}
# Feature -> all releases that have it.
ONLY = {
    "splits_one_shared_pmd": {"6.16", "6.17", "6.18.0", "6.19"},
    "requeues_partially_mapped": {"6.18", "7.1", "7.2", "7.3"},
}


@dataclass(frozen=True)
class Release:
    """One kernel release; ``has`` answers every question about it."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in RELEASES:
            raise ValueError(f"no row for kernel {self.name!r}")

    @property
    def row(self) -> str:
        """The release whose rules hold."""
        return "6.18" if self.name == "batch-copy" else self.name

    def has(self, feature: str) -> bool:
        """Whether this release shows the named feature."""
        if feature in ONLY:
            return self.row in ONLY[feature]
        first, last = SPAN.get(feature) or (FIRST[feature], LATEST)
        rank = RELEASES.index(self.row)
        return RELEASES.index(first) <= rank <= RELEASES.index(last)

    @property
    def policy(self) -> str:
        """The word used in result records."""
        return "batched" if self.has("batched") else "serial"


def expand(kernel: object) -> list[str]:
    """Turn a scenario's kernel value into release names, each once, in order."""
    if kernel is None:
        kernel = "both"
    items = kernel.split(",") if isinstance(kernel, str) else kernel
    names: list[str] = []
    for item in items:  # type: ignore[attr-defined]
        names += _one(str(item).strip())
    return list(dict.fromkeys(names))


def _one(word: str) -> list[str]:
    """A name, "both", "latest" or a range such as "6.1-7.3"."""
    if word == "both":
        return ["6.2", "6.3"]
    if word == "latest":
        return [LATEST]
    first, dash, last = word.partition("-")
    if dash and word not in RELEASES:
        span = RELEASES[RELEASES.index(first) : RELEASES.index(last) + 1]
        return [name for name in span if name not in NAMED]
    return [word]
