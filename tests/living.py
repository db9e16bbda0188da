"""A machine that lives: pages come and go, are touched, pinned, locked and migrated.

Between two calls the arrays are changed as the kernel's other paths would; every call is
made by some release, caller and batch limit.  After each step all invariants must hold.
What went wrong is printed as a scenario file that plays the last call from the state
before it.
"""

import dataclasses

import jax.numpy as jnp
import jaxmig
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from invariants import LEDGER, VIOLATIONS
from jaxmig.calls.callers import CALLERS, call
from jaxmig.calls.syscalls import Area, Session, Space
from jaxmig.calls.syscalls.session import NotModelled, SleepsForever
from jaxmig.state import conditions as cond, frame, pte
from jaxmig.state.machine import NOWHERE, Machine, Tlb
from jaxmig.tools import check

PAGES, CPUS, RUNNING = 48, 4, (1, 2)
SETS, WAYS = 8, 2
FIRST = 0x10000
HELD = {"locked": cond.LOCKED, "writeback": cond.WRITEBACK}
PAGE = st.integers(0, PAGES - 1)


def empty_machine() -> Machine:
    """Two nodes, one process, some of its pages never touched."""
    b = jaxmig.Builder(nodes=2, cpus=CPUS, tlb=(SETS, WAYS), free=[20, 30])
    heap = b.mmap(b.process("app", RUNNING), PAGES)
    b.condition(heap, "untouched", range(PAGES // 2, PAGES))
    b.condition(heap, "locked", [0], until="waited")  # room for conditions
    return b.build(content=False)


class Living(RuleBasedStateMachine):
    """The machine and the steps."""

    kernels: tuple[str, ...] = ("6.2", "6.3", "6.12", "6.18")
    callers: tuple[str, ...] = tuple(CALLERS)
    steps = played = 0  # of all examples; calls that came to an end

    @initialize()
    def start(self) -> None:
        self.m = empty_machine()
        self.blank = np.asarray(self.m.frame)[int(np.asarray(self.m.pte)[1, pte.PFN])]
        self.bits = int(np.asarray(self.m.pte)[1, pte.BITS])
        self.ledger = LEDGER(self.m)
        self.calls: list[str] = []

    def words(self) -> np.ndarray:
        return np.asarray(self.m.pte)

    def pfn(self, page: int) -> int | None:
        """The frame of a page; None if it has none."""
        word = self.words()[page]
        return int(word[pte.PFN]) if word[pte.BITS] & pte.PRESENT else None

    def put(self, **arrays: object) -> None:
        made = {
            k: jnp.asarray(v) if isinstance(v, np.ndarray) else v
            for k, v in arrays.items()
        }
        self.m = dataclasses.replace(self.m, **made)

    @rule(page=PAGE, node=st.integers(0, 1))
    def map(self, page: int, node: int) -> None:
        """A fault brings a page, if there is memory."""
        type(self).steps += 1
        if self.pfn(page) is not None or int(self.m.nfree[node]) == 0:
            return
        g, top = self.m.geometry, np.array(self.m.top)
        top[node, 0] -= 1
        slot = node * g.slots_per_node + int(top[node, 0])
        pfn = int(self.m.free[slot])
        rows, words = np.array(self.m.frame), np.array(self.m.pte)
        rows[pfn] = self.blank
        rows[pfn, frame.RMAP] = page
        words[page] = 0
        words[page, pte.PFN], words[page, pte.BITS] = pfn, self.bits
        nfree = np.array(self.m.nfree)
        nfree[node] -= 1
        self.put(frame=rows, pte=words, top=top, nfree=nfree)

    @rule(page=PAGE)
    def unmap(self, page: int) -> None:
        """The process gives a page back that nobody else holds."""
        type(self).steps += 1
        pfn = self.pfn(page)
        if pfn is None or int(self.m.frame[pfn, frame.REFCOUNT]) != 1:
            return
        g, node = self.m.geometry, pfn // self.m.geometry.frames_per_node
        top, free = np.array(self.m.top), np.array(self.m.free)
        free[node * g.slots_per_node + top[node, 0]] = pfn
        top[node, 0] += 1
        rows, words = np.array(self.m.frame), np.array(self.m.pte)
        rows[pfn] = (0, 0, 0, NOWHERE)
        words[page, pte.BITS] &= pte.STAYS
        words[page, pte.PFN] = 0
        nfree, marks = np.array(self.m.nfree), np.array(self.m.conditions)
        nfree[node] += 1
        marks[pfn] = 0
        self.put(
            frame=rows, pte=words, top=top, free=free, nfree=nfree, conditions=marks
        )
        gone = np.asarray(self.m.tlb.entry) == page
        self.fill(entry=np.where(gone, NOWHERE, np.asarray(self.m.tlb.entry)))

    def fill(self, **columns: np.ndarray) -> None:
        made = {k: jnp.asarray(v) for k, v in columns.items()}
        tlb: Tlb = dataclasses.replace(self.m.tlb, **made)
        self.m = dataclasses.replace(self.m, tlb=tlb)

    @rule(page=PAGE, cpu=st.sampled_from(RUNNING), way=st.integers(0, WAYS - 1))
    def load(self, page: int, cpu: int, way: int, store: bool = False) -> None:
        """A CPU translates a page and keeps the translation."""
        type(self).steps += 1
        pfn = self.pfn(page)
        if pfn is None:
            return
        words = np.array(self.m.pte)
        words[page, pte.BITS] |= pte.YOUNG | (pte.DIRTY if store else 0)
        self.put(pte=words)
        at = page % SETS, cpu * WAYS + way
        # A page is in one way of a CPU at most.
        entry, mine = np.array(self.m.tlb.entry), slice(cpu * WAYS, (cpu + 1) * WAYS)
        entry[at[0], mine] = np.where(
            entry[at[0], mine] == page, NOWHERE, entry[at[0], mine]
        )
        pfns, bits = np.array(self.m.tlb.pfn), np.array(self.m.tlb.bits)
        entry[at], pfns[at] = page, pfn
        bits[at] = words[page, pte.BITS] & (pte.WRITE | pte.DIRTY)
        self.fill(entry=entry, pfn=pfns, bits=bits)

    @rule(page=PAGE, cpu=st.sampled_from(RUNNING), way=st.integers(0, WAYS - 1))
    def store(self, page: int, cpu: int, way: int) -> None:
        self.load(page, cpu, way, store=True)

    def mark(self, page: int, state: int, left: int, refs: int = 0) -> None:
        """Put a state in a page's way, or take it away."""
        type(self).steps += 1
        pfn = self.pfn(page)
        if pfn is None:
            return
        rows, words = np.array(self.m.frame), np.array(self.m.conditions)
        fields, marks = cond.unpack(words[pfn])
        held = int(marks) >> cond.EXTRA_SHIFT
        if held + refs < 0 or held + refs > 3:
            return
        left = cond.UNTIL_WAITED if held + refs and state == cond.EXTRA_REF else left
        fields = (*fields[:state], left, *fields[state + 1 :])
        marks = int(marks) + (refs << cond.EXTRA_SHIFT)
        words[pfn] = cond.pack([int(f) for f in fields], marks)
        rows[pfn, frame.REFCOUNT] += refs
        rows[pfn, frame.FLAGS] |= frame.CONDITIONED
        self.put(frame=rows, conditions=words)

    @rule(page=PAGE)
    def pin(self, page: int) -> None:
        self.mark(page, cond.EXTRA_REF, cond.UNTIL_WAITED, 1)

    @rule(page=PAGE)
    def unpin(self, page: int) -> None:
        self.mark(page, cond.EXTRA_REF, 0, -1)

    @rule(page=PAGE, name=st.sampled_from(sorted(HELD)), on=st.booleans())
    def hold(self, page: int, name: str, on: bool) -> None:
        """A lock or writeback begins, to end when somebody waits; or it is over."""
        self.mark(page, HELD[name], cond.UNTIL_WAITED * on)

    @rule(data=st.data(), to=st.integers(0, 1), batch=st.sampled_from((0, 1, 7, 512)))
    def migrate(self, data: st.DataObject, to: int, batch: int) -> None:
        """Everything on the other node is asked to move."""
        type(self).steps += 1
        kernel = data.draw(st.sampled_from(self.kernels))
        caller = data.draw(st.sampled_from(self.callers))
        space = Space([Area(start=FIRST, pages=PAGES, first_pte=0)])
        s = Session(self.m, kernel, batch=batch)
        text = self.scenario(kernel, caller, to, batch)
        self.calls.append(text)
        try:
            out = call(s, space, frozenset({1 - to}), to, caller=caller)
        except (SleepsForever, NotModelled):
            return  # refused: the machine is as it was
        except Exception as error:
            error.add_note(text)
            raise
        assert out.ret >= 0 or out.ret == -12, text
        type(self).played += 1
        self.m = s.state
        if caller == "soft_offline":  # it keeps the memory that it empties
            self.ledger = LEDGER(self.m)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "m"):
            broken = check.explain(int(VIOLATIONS(self.m, self.ledger)))
            assert not broken, "\n".join([*broken, *self.calls[-1:]])

    def scenario(self, kernel: str, caller: str, to: int, batch: int) -> str:
        """The state and a call as a scenario file."""
        lines = [f'kernel = "{kernel}"', "[machine]", "nodes = 2", f"cpus = {CPUS}"]
        free = ", ".join(f'{i} = "{int(n) * 4}k"' for i, n in enumerate(self.m.nfree))
        lines += [
            'node_size = "1m"',
            f"max_batch = {batch}",
            f"free = {{ {free} }}",
            "[[process]]",
            'name = "app"',
        ]
        lines += [f"running = {list(RUNNING)}"]
        states: list[str] = []
        marks = np.asarray(self.m.conditions)
        per_node = self.m.geometry.frames_per_node
        for page in range(PAGES):
            pfn, name = self.pfn(page), f"p{page}"
            node = 0 if pfn is None else pfn // per_node
            lines += [
                "[[region]]",
                'process = "app"',
                f'name = "{name}"',
                'size = "4k"',
            ]
            lines += [f"node = {node}"]
            if pfn is None:
                states += _state(name, "untouched", "forever")
                continue
            fields, word = cond.unpack(marks[pfn])
            refs = int(word) >> cond.EXTRA_SHIFT
            if refs:
                states += _state(name, "extra_ref", "forever", refs)
            for state, number in HELD.items():
                if int(fields[number]):
                    states += _state(name, state, "waited")
        lines += [*states, "[[call]]", 'syscall = "kernel"', 'process = "app"']
        lines += [f'from = "{1 - to}"', f'to = "{to}"']
        lines += [f'caller = "{caller}"'] if caller != "kernel" else []
        return "\n".join(lines) + "\n"


def _state(region: str, state: str, until: str, times: int = 1) -> list[str]:
    pages = ", ".join(["0"] * times)
    head = ["[[condition]]", f'region = "{region}"', f"pages = [{pages}]"]
    return [*head, f'state = "{state}"', f'until = "{until}"']
