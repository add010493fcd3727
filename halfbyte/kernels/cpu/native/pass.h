// A whole pass of the network: spans, and between them rotary embedding, the cache and attention.
#pragma once
#include "plan.h"
#include "span.h"

typedef struct {
    const float *q_norm, *k_norm;  // [d], or null
} HeadNorms;

typedef struct {
    int64_t layers, hidden, gated, heads, kv_heads, head_dim;
    const Span *spans;       // [layers + 1]
    const HeadNorms *norms;  // [layers]
    float eps;
} Network;

typedef struct {
    const Network *network;
    Paged paged;
    const LayerCache *caches;    // [layers]
    const float *cosine, *sine;  // [rows, d]
    const float *q, *k, *v;      // instead of a network: attention by itself
    Buffers buffers;
    float *hidden;  // [rows, hidden]: the result
    const Task *tasks;
    int64_t count;
    _Atomic int64_t *taken;   // [layers]: tasks given out
    const int64_t *parts_of;  // see Plan
    Part *parts;
    Room *rooms;  // [threads]
} Pass;

static void place_heads(Worker me, const Pass *p, const HeadNorms *norms, const LayerCache *cache) {
    const Network *n = p->network;
    int64_t d = n->head_dim, heads = n->heads, kv_heads = n->kv_heads, stride = (heads + 2 * kv_heads) * d;
    int64_t row, end = share(me, p->buffers.rows, &row);
    for (; row < end; row++) {
        float *x = p->buffers.out + row * stride;
        for (int64_t h = 0; h < heads + kv_heads; h++) {
            float *head = x + h * d;
            const float *weight = h < heads ? norms->q_norm : norms->k_norm;
            if (weight) rms_norm(head, weight, d, n->eps, head);
            rotate(head, p->cosine + row * d, p->sine + row * d, d);
        }
        for (int64_t i = 0; i < heads * d; i++) x[i] *= p->paged.scale;
        keep(&p->paged, cache, p->paged.slots[row], x + heads * d, x + (heads + kv_heads) * d);
    }
}

static void attend_all(Worker me, const Pass *p, const Paged *paged, int64_t layer, const float *q, int64_t stride) {
    for (int64_t i; (i = atomic_fetch_add_explicit(p->taken + layer, 1, memory_order_relaxed)) < p->count;)
        attend(p->tasks + i, paged, p->caches + layer, q, stride, p->buffers.attended, p->parts, p->rooms + me.id);
}

// A long sequence's one token: the parts of each head, in order.
static void merge_parts(Worker me, const Pass *p, const Paged *paged) {
    int64_t d = paged->head_dim, heads = paged->heads, row, end = share(me, p->buffers.rows, &row);
    for (; row < end; row++) {
        if (p->parts_of[2 * row] < 0) continue;
        int64_t chunks = p->parts_of[2 * row + 1];
        for (int64_t h = 0; h < heads; h++) {
            Part *part = p->parts + p->parts_of[2 * row] + h * chunks;
            for (int64_t c = 1; c < chunks; c++) merge(part, part + c, d);
            finish(part, d, p->buffers.attended + (row * heads + h) * d);
        }
    }
}

static void pass_job(Worker me, void *argument) {
    const Pass *p = argument;
    const Network *n = p->network;
    int64_t stride = (n->heads + 2 * n->kv_heads) * n->head_dim, width = n->heads * n->head_dim;
    for (int64_t layer = 0; layer <= n->layers; layer++) {
        Buffers b = p->buffers;
        if (layer == n->layers) b.out = p->hidden;
        span(me, n->spans + layer, &b);
        if (layer == n->layers) break;
        place_heads(me, p, n->norms + layer, p->caches + layer);
        meet(me);
        attend_all(me, p, &p->paged, layer, b.out, stride);
        meet(me);
        merge_parts(me, p, &p->paged);  // by the same worker that rounds the row
        round_rows(me, b.attended, b.rows, with_inputs(b.rounded, width));
        meet(me);
    }
}
