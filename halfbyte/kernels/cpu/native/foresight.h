// Keys and values of the next attention, asked for while products are under way: at several rows these wait for
// arithmetic and leave the memory idle, and attention by itself waits for nothing but the memory.
#pragma once
#include "attention.h"
#include "rows.h"

typedef struct {  // of one worker, for one layer; {0}: there is nothing to ask for
    const Paged *paged;
    const LayerCache *cache;
    int64_t sequence, block, line;  // the next one to ask for
    int64_t stride;                 // to this worker's next sequence
    int64_t at_once;                // lines a call
} Foresight;

INLINE int64_t lines_of_block(const Paged *p) { return p->kv_heads * p->block_size * p->head_dim * 2 / 64; }

// For a pass of one token a sequence; `calls` of foresee_some are to be enough for all.
static Foresight foresight(Worker me, const Paged *paged, const LayerCache *cache, int64_t rows, int64_t calls) {
    if (rows <= PACK || rows != paged->sequences || cache->window || calls == 0) return (Foresight){0};
    int64_t blocks = 0;
    for (int64_t s = me.id; s < rows; s += me.threads) blocks += (paged->context[s] + paged->block_size - 1) / paged->block_size;
    int64_t lines = blocks * lines_of_block(paged), at_once = (lines + calls - 1) / calls;
    return (Foresight){paged, cache, me.id, 0, 0, me.threads, at_once < 16 ? at_once : 16};  // more would have to wait
}

INLINE void foresee_some(Foresight *f) {
    const Paged *p = f->paged;
    if (!p) return;
    for (int64_t n = 0, most = lines_of_block(p); n < f->at_once && f->sequence < p->sequences; n++) {
        int64_t at = p->tables[f->sequence * p->table_width + f->block] * most * 32 + f->line * 32;
        __builtin_prefetch(f->cache->keys + at);
        __builtin_prefetch(f->cache->values + at);
        if (++f->line < most) continue;
        f->line = 0;
        if (++f->block * p->block_size < p->context[f->sequence]) continue;
        f->block = 0;
        f->sequence += f->stride;
    }
}
