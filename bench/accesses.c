// The same accesses as jaxmig's, in plain C on one thread: CPU after CPU, each through
// its own TLB.  No migration, so nothing couples the CPUs.
#include <stdint.h>

struct tlb { int32_t *tag, *age, *load; };  // [cpus][sets][ways]

// Walks counted by CPU, clocks moved on; `bins` is pmbench's histogram.
void accesses(struct tlb t, const int32_t *op, int32_t *pte, int64_t *clock,
              int64_t *walks, int64_t *bins, const int32_t *node, int32_t cpus,
              int32_t block, int32_t n, int32_t sets, int32_t ways, int32_t folios,
              const int32_t *cost, int32_t age)
{
    for (int32_t cpu = 0; cpu < cpus; cpu++) {
        const int32_t *next = op + (int64_t)cpu * block * 2;
        for (int32_t i = 0; i < n; i++, next += 2) {
            int32_t folio = next[0], store = next[1] & 1, way = 0;
            int64_t row = ((int64_t)cpu * sets + folio % sets) * ways;
            int32_t *tag = t.tag + row, *used = t.age + row, *load = t.load + row;
            int hit = 0;
            for (int32_t w = 0; w < ways; w++) {
                hit |= tag[w] == folio;
                if (tag[w] == folio || (!hit && used[w] < used[way]))
                    way = w;
            }
            int walk = !hit || (store && !(load[way] & 1));
            if (walk) {
                pte[folio] |= 1 | store << 1;
                load[way] = (pte[folio] >> 2) << 4 | store | (pte[folio] >> 1 & 1);
            }
            tag[way] = folio;
            used[way] = age + i;
            int near = (load[way] >> 4) / folios == node[cpu];
            int32_t took = cost[1] + walk * cost[2] + (near ? cost[3] : cost[4]);
            clock[cpu] += cost[0] + took;
            walks[cpu] += walk;
            int octave = 31 - __builtin_clz(took | 1);
            bins[store * 369 + (octave < 8 ? 0 : 1 + (octave - 8) * 16
                                + (took >> (octave - 4) & 15))]++;
        }
    }
}
