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

// Where a pass's tokens find their embeddings and angles.
typedef struct {
    const void *embedding;  // [V, hidden]
    int64_t kind;           // its numbers are 0: float32, 1: float16, 2: bfloat16
    const int64_t *tokens, *positions;  // [rows]
    const float *cosine, *sine;         // [positions, d]
} Start;

typedef struct {
    const Network *network;
    Paged paged;
    const LayerCache *caches;    // [layers]
    const Start *start;          // or null: embeddings lie in the residual, angles row by row
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

// A worker does it for the rows that it norms afterwards: nobody has to wait.
static void embed(Worker me, const Start *start, const Buffers *b, int64_t hidden) {
    int64_t row, end = share(me, b->rows, &row);
    for (; row < end; row++) {
        float *to = b->residual + row * hidden;
        int64_t at = start->tokens[row] * hidden;
        if (start->kind == 0) memcpy(to, (const float *)start->embedding + at, sizeof(float) * (size_t)hidden);
        const uint16_t *from = (const uint16_t *)start->embedding + at;
        for (int64_t i = 0; i < hidden && start->kind == 1; i += WIDTH) store(to + i, load_half(from + i));
        for (int64_t i = 0; i < hidden && start->kind == 2; i++) {
            uint32_t bits = (uint32_t)from[i] << 16;
            memcpy(to + i, &bits, sizeof bits);
        }
    }
}

static void place_heads(Worker me, const Pass *p, const HeadNorms *norms, const LayerCache *cache) {
    const Network *n = p->network;
    int64_t d = n->head_dim, heads = n->heads, kv_heads = n->kv_heads, stride = (heads + 2 * kv_heads) * d;
    int64_t row, end = share(me, p->buffers.rows, &row);
    for (; row < end; row++) {
        float *x = p->buffers.out + row * stride;
        int64_t at = (p->start ? p->start->positions[row] : row) * d;
        const float *cosine = (p->start ? p->start->cosine : p->cosine) + at;
        const float *sine = (p->start ? p->start->sine : p->sine) + at;
        for (int64_t h = 0; h < heads + kv_heads; h++) {
            float *head = x + h * d;
            const float *weight = h < heads ? norms->q_norm : norms->k_norm;
            if (weight) rms_norm(head, weight, d, n->eps, head);
            rotate(head, cosine, sine, d);
        }
        for (int64_t i = 0; i < heads * d; i++) x[i] *= p->paged.scale;
        keep(&p->paged, cache, p->paged.slots[row], x + heads * d, x + (heads + kv_heads) * d);
    }
}

static void attend_all(Worker me, const Pass *p, const Paged *paged, int64_t layer, const float *q, int64_t stride) {
    for (int64_t i; (i = atomic_fetch_add_explicit(p->taken + layer, 1, memory_order_relaxed)) < p->count;) {
        if (i + me.threads < p->count) foresee(p->tasks + i + me.threads, paged, p->caches + layer);
        attend(p->tasks + i, paged, p->caches + layer, q, stride, p->buffers.attended, p->parts, p->rooms + me.id);
    }
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
    int64_t calls = n->gated / BLOCK / me.threads * 4 * ((p->buffers.rows + PACK - 1) / PACK);  // see gated
    if (p->start) embed(me, p->start, &p->buffers, n->hidden);
    for (int64_t layer = 0; layer <= n->layers; layer++) {
        Buffers b = p->buffers;
        Foresight next = {0};
        if (layer && layer < n->layers) next = foresight(me, &p->paged, p->caches + layer, b.rows, calls);
        b.next = &next;
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
