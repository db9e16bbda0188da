// The same migration as jaxmig's, in plain C on one thread and on the same arrays.
//
// floor_copy: only the contents move.  serial: one page at a time, as Linux 6.2.
// batched: `limit` pages are unmapped, one flush, then they are moved and mapped, as
// Linux 6.3.  Base pages that are mapped once; frames, entries and TLBs as machine.py
// lays them out.  What is a sum over the call (interrupts) is taken at its end.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { REFS, MAPS, FLAGS, RMAP };
enum {
    PRESENT = 1, WRITE = 2, YOUNG = 4, DIRTY = 8, SOFT_DIRTY = 16, UFFD_WP = 32,
    EXCLUSIVE = 64, PROT_NONE = 128, MIGRATION = 256, READ_EXCLUSIVE = 2 << 9,
    READ = 1 << 9, WRITABLE = 3 << 9, KIND = 3 << 9, HUGE = 1 << 11, VM_WRITE = 1 << 12,
    VM_LOCKED = 1 << 13, VM_PROT_NONE = 1 << 14,
};
enum { F_KIND = 0xf << 4, ANON = 1 << 4, SHMEM = 2 << 4, FILE_ = 3 << 4, KSM = 4 << 4,
       SWAPCACHE = 5 << 4, HUGETLB = 7 << 4, F_DIRTY = 1 << 10, PRIVATE = 1 << 12,
       LOCKED = 1 << 13, UNMAPPED = 1 << 14, EXCLUSIVE_MAP = 1 << 16 };
#define NOWHERE INT32_MAX
#define STAYS (HUGE | VM_WRITE | VM_LOCKED | VM_PROT_NONE | (int32_t)0xffff0000)
#define PAGE 4096

struct machine {
    int32_t (*frame)[4];
    int32_t (*pte)[2];
    int32_t *free, *top, *nfree;
    int32_t *tlb;     // [sets][cpus * ways]: entry numbers
    int32_t *told;    // [cpus * ways]: -1 where a flush reaches the CPU
    int64_t *ipis;    // [cpus]
    char *memory;     // NULL: no contents
    int32_t per_node, slots, sets, cpus, ways;
    int64_t moved, failed, rounds;
};

static int32_t cache_refs(int32_t flags)
{
    int32_t kind = flags & F_KIND;
    int cached = kind == SHMEM || kind == FILE_ || kind == SWAPCACHE;
    return cached * (1 + !!(flags & PRIVATE)) + (kind == HUGETLB);
}

static int32_t to_migration(int32_t bits)
{
    int32_t kind = bits & WRITE ? WRITABLE : bits & EXCLUSIVE ? READ_EXCLUSIVE : READ;
    return (bits & (STAYS | YOUNG | DIRTY | SOFT_DIRTY | UFFD_WP)) | MIGRATION | kind;
}

static int32_t from_migration(int32_t bits, int32_t flags)
{
    int32_t kind = bits & KIND, f = flags & F_KIND;
    int anon = f == ANON || f == SWAPCACHE || f == KSM || (flags & EXCLUSIVE_MAP);
    int32_t new = (bits & (STAYS | YOUNG | SOFT_DIRTY | UFFD_WP)) | PRESENT;
    if (kind == WRITABLE)
        new = (new & ~UFFD_WP) | (bits & VM_WRITE ? WRITE : 0);
    if (flags & F_DIRTY)
        new |= bits & DIRTY;
    if (anon && kind != READ)
        new |= EXCLUSIVE;
    return bits & VM_PROT_NONE ? new | PROT_NONE : new;
}

void floor_copy(char *memory, const int32_t *src, const int32_t *dst, int64_t n,
                int64_t bytes)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(memory + (int64_t)dst[i] * PAGE, memory + (int64_t)src[i] * PAGE, bytes);
}

// Phase 1: the migration entry of one page; whether a TLB may hold its translation.
static int unmap(struct machine *m, int32_t src)
{
    int32_t *row = m->frame[src], *pte = m->pte[row[RMAP]];
    int held = (pte[1] & (PRESENT | PROT_NONE)) == PRESENT;
    if (pte[1] & DIRTY)
        row[FLAGS] |= F_DIRTY;
    pte[1] = to_migration(pte[1]);
    row[REFS]--;
    row[MAPS] = 0;
    row[FLAGS] |= LOCKED | UNMAPPED;
    return held;
}

// Phase 3: the references are right: contents and identity go to `dst`.
static int move(struct machine *m, int32_t src, int32_t dst)
{
    int32_t *row = m->frame[src], *new = m->frame[dst];
    if (row[REFS] != cache_refs(row[FLAGS]))
        return 0;
    if (m->memory)
        memcpy(m->memory + (int64_t)dst * PAGE, m->memory + (int64_t)src * PAGE, PAGE);
    memcpy(new, row, sizeof *m->frame);
    row[REFS] = row[MAPS] = row[FLAGS] = 0;
    row[RMAP] = NOWHERE;
    return 1;
}

// Phase 4: the entry maps `page`, and the folio is unlocked.
static void remap(struct machine *m, int32_t page)
{
    int32_t *row = m->frame[page], *pte = m->pte[row[RMAP]];
    pte[0] = page;
    pte[1] = from_migration(pte[1], row[FLAGS]);
    row[REFS]++;
    row[MAPS]++;
    row[FLAGS] &= ~(LOCKED | UNMAPPED);
}

static int32_t take(struct machine *m, int32_t node)
{
    return m->free[node * m->slots + --m->top[node]];
}

static void give(struct machine *m, int32_t page)
{
    int32_t node = page / m->per_node;
    m->free[node * m->slots + m->top[node]++] = page;
    m->nfree[node]++;
}

static void drop_page(struct machine *m, int32_t entry)
{
    int32_t n = m->cpus * m->ways;
    int32_t *restrict tag = m->tlb + (int64_t)(entry % m->sets) * n;
    const int32_t *restrict told = m->told;
    for (int32_t i = 0; i < n; i++)
        tag[i] = (tag[i] == entry) & told[i] ? NOWHERE : tag[i];
}

static void drop_all(struct machine *m, int32_t cpu)
{
    for (int32_t set = 0; set < m->sets; set++)
        for (int32_t way = 0; way < m->ways; way++)
            m->tlb[((int64_t)set * m->cpus + cpu) * m->ways + way] = NOWHERE;
}

static void interrupted(struct machine *m)
{
    for (int32_t cpu = 0; cpu < m->cpus; cpu++)
        m->ipis[cpu] += m->rounds * !!m->told[cpu * m->ways];
}

int serial(struct machine *m, const int32_t *list, int64_t n, int32_t node)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t src = list[i], entry = m->frame[src][RMAP];
        if (m->nfree[node] < 1)
            return -1;
        m->nfree[node]--;
        if (unmap(m, src)) {
            drop_page(m, entry);
            m->rounds++;
        }
        int32_t dst = m->free[node * m->slots + m->top[node] - 1];
        if (move(m, src, dst)) {
            m->top[node]--;
            remap(m, dst);
            give(m, src);
            m->moved++;
        } else {
            remap(m, src);
            m->nfree[node]++;
            m->failed++;
        }
    }
    interrupted(m);
    return 0;
}

int batched(struct machine *m, const int32_t *list, int64_t n, int32_t node,
            int64_t limit)
{
    int32_t *dst = malloc(limit * sizeof *dst);
    char *empty = calloc(m->cpus, 1);
    for (int64_t at = 0; at < n; at += limit) {
        int64_t size = n - at < limit ? n - at : limit;
        int owed = 0;
        if (m->nfree[node] < size)
            return -1;
        m->nfree[node] -= size;
        for (int64_t i = 0; i < size; i++)
            owed |= unmap(m, list[at + i]);
        // Nobody fills an emptied TLB again while the call runs.
        for (int32_t cpu = 0; owed && cpu < m->cpus; cpu++)
            if (m->told[cpu * m->ways] && !empty[cpu])
                drop_all(m, cpu), empty[cpu] = 1;
        m->rounds += owed;
        for (int64_t i = 0; i < size; i++) {
            dst[i] = take(m, node);
            if (!move(m, list[at + i], dst[i])) {
                m->top[node]++;
                m->nfree[node]++;
                m->failed++;
                dst[i] = list[at + i];
            }
        }
        for (int64_t i = 0; i < size; i++)
            remap(m, dst[i]);
        for (int64_t i = 0; i < size; i++)
            if (dst[i] != list[at + i])
                give(m, list[at + i]), m->moved++;
    }
    interrupted(m);
    free(dst);
    free(empty);
    return 0;
}
