"""The phases (unmap, flush, copy, remap) on lanes of base pages, and free frames."""
