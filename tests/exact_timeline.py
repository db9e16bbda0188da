"""The timeline once more, event by event in plain Python: slow, and easy to check.

A heap holds what happens next: a thread's access, an act of the migrator, a flush that
reaches a CPU.  TLBs are lists in order of use.  At equal times flushes come first, then
the migrator, then threads by CPU; an access sees what was written before its time.
"""

import dataclasses

PMD, PAGE, BATCH, WHOLE, BROADCAST, BROADCAST_ALL = 512, 1, 2, 3, 4, 5
AGES = 10**9


@dataclasses.dataclass
class Thread:
    """A CPU and its thread."""

    cpu: int
    node: int
    ops: list  # (folio, word, store, mm)
    time: int = 0
    at: int = 0
    asleep_from: int | None = None
    waits_for: int | None = None
    first_try: int | None = None
    stalled: bool = False
    mm: int = 0
    asids: list = dataclasses.field(default_factory=lambda: [[0, 0]])  # [mm, gen]
    asid: int = 0
    next_asid: int = 1
    sets: dict = dataclasses.field(
        default_factory=dict
    )  # row -> [[tag, frame, dirty, asid]]
    hits: int = 0
    walks: int = 0
    faults: int = 0
    ipis: int = 0
    ipi_ns: int = 0
    stalls: list = dataclasses.field(default_factory=list)
    samples: list = dataclasses.field(default_factory=list)
    wrong: int = 0


class Exact:
    """The same machine as `jaxmig.timeline.Run`, from the same shape and numbers."""

    def __init__(self, shape, costs, table, threads, trips, touched=True):
        self.s, self.k, self.t, self.threads, self.trips = (
            shape,
            {n: int(getattr(costs, n)) for n in costs.__dataclass_fields__},
            table,
            threads,
            trips,
        )
        n = shape.folios
        self.pte = {q: [q, True, True] for q in range(n)} if touched else {}
        self.memory = {q: [0] * max(shape.words, 1) for q in range(n)}
        self.owner = {q: q for q in range(n)}
        self.unmap, self.remap = {}, {}
        self.gen = [0] * shape.mms
        self.cleared = (0, 1, 0)  # start, unit, count of the present unmapping
        self.ends = []
        self.flushes = self.silent = 0

    # --- the program -----------------------------------------------------------------
    def row(self, q):
        s = self.s
        if q < s.huge:
            return ("huge", q % s.huge_sets), s.huge_ways
        return ("base", (q - s.huge) % s.sets), s.ways

    def generation(self, mm, time):
        start, unit, count = self.cleared
        done = min(max((time - start) // unit, 0), count) if mm == 0 else 0
        return self.gen[mm] + done

    def flush(self, t, asid):
        for row in t.sets.values():
            row[:] = [e for e in row if e[3] != asid]

    def load_mm(self, t, mm, time):
        woke, t_asleep = t.asleep_from is not None, t.mm != mm
        t.asleep_from = None
        if t_asleep:
            known = [i for i, (owner, _) in enumerate(t.asids) if owner == mm]
            if known:
                t.asid = known[0]
            else:
                size = 6 if self.s.mms > 1 else 1
                while len(t.asids) < size:
                    t.asids.append([-1, 0])
                t.asid = t.next_asid % size
                t.next_asid += 1
                self.flush(t, t.asid)
                t.asids[t.asid] = [mm, self.generation(mm, time)]
            t.mm = mm
        now = self.generation(mm, time)
        if (woke or t_asleep) and t.asids[t.asid][1] < now:
            self.flush(t, t.asid)
            t.asids[t.asid][1] = now
        return self.k["switch"] if t_asleep else 0

    def access(self, t, seen):
        """One try; `seen` is the page table as all tries of this instant see it."""
        k, now = self.k, t.time
        q, word, store, mm = t.ops[t.at % len(t.ops)]
        pause = self.load_mm(t, mm, now)
        key, ways = self.row(q)
        row = t.sets.setdefault(key, [])
        hit = next((e for e in row if e[0] == q and e[3] == t.asid), None)
        entry = seen.get(q)
        if hit is None or (store and not hit[2]):
            tried = now + pause + k["hit"] + k["walk"] + k["fault"]
            if self.unmap.get(q, AGES**2) <= now < self.remap.get(q, AGES**2):
                t.first_try = now if t.first_try is None else t.first_try
                t.stalled = True
                self.sleep(t, q, tried)
                return
            if entry is None:
                t.first_try = now if t.first_try is None else t.first_try
                t.faults += 1
                self.pte.setdefault(q, [q, False, False])
                t.time = tried
                return
            t.walks += 1
            walk = k["walk"]
            self.pte[q][1] = True
            self.pte[q][2] |= bool(store)
        else:
            t.hits += 1
            walk = 0
        frame = hit[1] if hit else entry[0]
        dirty = bool(store) or (hit[2] if hit else entry[2])
        if hit:
            row.remove(hit)
        elif len(row) == ways:
            row.pop(0)
        row.append([q, frame, dirty, t.asid])
        if self.s.words:
            t.wrong += self.owner.get(frame) != q
            if store:
                self.memory[frame][word % self.s.words] += 1
        near = frame // self.s.folios == t.node
        t.time = now + pause + k["gen"] + k["hit"] + walk
        t.time += k["local"] if near else k["remote"]
        begun = now if t.first_try is None else t.first_try
        t.samples.append((t.time - begun - k["gen"], store))
        if t.stalled:
            t.stalls.append(now - begun)
        t.first_try, t.stalled = None, False
        t.at += 1

    def sleep(self, t, q, tried):
        until = self.remap.get(q)
        if until is None:
            t.waits_for, t.asleep_from, t.time = q, tried, None
        elif until <= tried:
            t.time = tried
        else:
            t.asleep_from, t.time = tried, until + self.k["wake"]

    def run_until(self, limit_of, stop=None):
        """All accesses that begin before each thread's limit, in order of time."""
        while True:
            ready = [
                t for t in self.threads if t.time is not None and t.time < limit_of(t)
            ]
            if not ready:
                return
            first = min(t.time for t in ready)
            seen = {q: list(e) for q, e in self.pte.items()}
            for t in ready:
                if t.time == first:
                    self.access(t, seen)

    # --- the migration ---------------------------------------------------------------
    def migrate(self):
        """All trips; threads run along."""
        start = 0
        for trip in range(self.trips):
            start += self.t.call
            for i in range(len(self.t.first)):
                start = self.segment(i, trip, start)
            self.ends.append(start)
            start += self.t.pause

    def segment(self, i, trip, start):
        p = self.t
        first, count, unit, kind, moved = (
            int(x[i]) for x in (p.first, p.count, p.unit, p.kind, p.moved)
        )
        for j in range(count):
            self.unmap[first + j] = start + (j + 1) * unit
            self.remap.pop(first + j, None)
        self.cleared = (start, unit, count)
        sent = start + count * unit
        self.run_until(lambda t: sent)
        told, cost = self.shootdown(kind, sent)
        self.gen[0] += count
        self.cleared = (start, unit, 0)
        end = sent + cost
        reach = {id(t): end for t in self.threads}
        for rank, t in enumerate(told):
            reach[id(t)] = sent + p.flush_first + p.flush_next * rank
        self.run_until(lambda t: reach[id(t)])
        for t in told:
            self.handle(t, kind, first, reach[id(t)])
        if kind in (BROADCAST, BROADCAST_ALL):
            self.hardware(kind, first, count)
        return self.move(first + count - moved, moved, trip, end)

    def shootdown(self, kind, sent):
        p = self.t
        if kind in (BROADCAST, BROADCAST_ALL):
            return [], p.broadcast if kind == BROADCAST else p.broadcast_all
        if kind == 0:
            return [], 0
        holders = [t for t in self.threads if t.mm == 0]
        told = [t for t in holders if t.asleep_from is None or t.asleep_from > sent]
        self.flushes += bool(holders)
        self.silent += bool(holders) and not told
        for t in told:
            t.ipis += 1
        if told:
            return told, p.flush_first + p.flush_next * (len(told) - 1)
        return told, p.flush_lazy if holders else 0

    def handle(self, t, kind, folio, reach):
        if t.asleep_from is not None and t.asleep_from <= reach:
            return
        cost = self.t.handler_page if kind == PAGE else self.t.handler_full
        t.ipi_ns += cost
        if t.asleep_from is not None:
            t.asleep_from += cost
        else:
            t.time += cost
        mine = t.asids[t.asid]
        if t.mm != 0 or mine[1] >= self.gen[0]:
            return
        if kind == PAGE and mine[1] + 1 == self.gen[0]:
            row = t.sets.get(self.row(folio)[0], [])
            row[:] = [e for e in row if e[0] != folio]
        else:
            self.flush(t, t.asid)
        mine[1] = self.gen[0]

    def hardware(self, kind, first, count):
        for t in self.threads:
            for i, mine in enumerate(t.asids):
                if mine[0] == 0:
                    mine[1] = self.gen[0]
                    if kind == BROADCAST_ALL:
                        self.flush(t, i)
            if kind == BROADCAST:
                for row in t.sets.values():
                    row[:] = [e for e in row if not first <= e[0] < first + count]

    def move(self, start, moved, trip, end):
        node = (trip + 1) % 2
        clock = end
        n = self.s.folios
        for q in range(start, start + moved):
            clock += self.t.engine_huge if q < self.s.huge else self.t.engine_base
        for q in range(start, start + moved):
            large = q < self.s.huge
            clock += self.t.move_huge if large else self.t.move_base
            clock += self.t.first_copy if q == self.s.huge else 0
            if q >= self.t.fits:
                clock += self.t.beyond_huge if large else self.t.beyond
            self.remap[q] = clock
            if q not in self.pte:
                continue
            old, new = self.pte[q][0], node * n + (q + 7 * (trip + 1)) % self.t.folios
            self.pte[q][0] = new
            self.memory[new] = self.memory[old]
            self.memory[old] = [0xDEADBEEF] * max(self.s.words, 1)
            self.owner.pop(old)
            self.owner[new] = q
        for t in self.threads:
            if t.waits_for is not None and start <= t.waits_for < start + moved:
                q, t.waits_for = t.waits_for, None
                tried, t.asleep_from = t.asleep_from, None
                self.sleep(t, q, tried)
        return clock
