#!/usr/bin/env python3
"""2 GiB with every other page given back: something for compaction to move."""

import mmap
import time

PAGE, SIZE = 4096, 1 << 31

area = mmap.mmap(-1, SIZE)
area.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, SIZE, PAGE):
    area[at] = 1
for at in range(0, SIZE, 2 * PAGE):
    area.madvise(mmap.MADV_DONTNEED, at, PAGE)
print("ready", flush=True)
time.sleep(600)
