"""Unmap, flush, copy and remap on lanes of base pages, and free frames."""
