// Causal attention over keys and values that lie in blocks, without gathering them.
//
// A query's keys are taken in chunks of 256, counted from the start of its sequence. Each chunk gives a part: its largest
// score m, l = sum of e^(score - m), and the sum of e^(score - m) * value; parts are merged in order (online softmax,
// arXiv:1805.02867). So a query's result is the same whether it is decoded alone or read with others, and the chunks of
// one long sequence can go to different threads.
#pragma once
#include "lanes.h"
#include "pool.h"
#include <stdlib.h>

#define KEYS 16     // keys a step: a lane each
#define CHUNK 256   // keys a part
#define MAX_HEAD 256
#define MAX_ROWS 64  // queries that are worked on together, over all heads that share their keys

typedef struct {  // what all layers share; the token rows of sequence s are query_start[s] to query_start[s + 1]
    int64_t sequences, heads, kv_heads, head_dim, block_size, table_width;
    const int32_t *query_start;   // [sequences + 1]
    const int32_t *context;       // [sequences] tokens with this pass's
    const int32_t *tables;        // [sequences, table_width] block numbers
    const int64_t *slots;         // [rows] block * block_size + place
    float scale;
} Paged;

// One layer's cache in float16. Values lie as [blocks, kv_heads, block_size, d]; of keys, sixteen tokens lie side by
// side, [blocks, kv_heads, block_size / 16, d, 16], so that a step reads a lane for each.
typedef struct {
    uint16_t *keys, *values;
    int64_t window;  // a token sees itself and the window - 1 before it; 0: all before it
} LayerCache;

// Keeps one token's key and value.
INLINE void keep(const Paged *p, const LayerCache *cache, int64_t slot, const float *keys, const float *values) {
    int64_t size = p->block_size, d = p->head_dim, place = slot % size;
    for (int64_t h = 0; h < p->kv_heads; h++) {
        int64_t first = (slot / size * p->kv_heads + h) * size;
        uint16_t *k = cache->keys + (first + place / KEYS * KEYS) * d + place % KEYS, half[MAX_HEAD];
        for (int64_t i = 0; i < d; i += WIDTH) {
            store_half(half + i, within_half(load(keys + h * d + i)));
            store_half(cache->values + (first + place) * d + i, within_half(load(values + h * d + i)));
        }
        for (int64_t i = 0; i < d; i++) k[i * KEYS] = half[i];
    }
}

typedef struct { int32_t sequence, row, tokens, kv_head, chunk, chunks; int64_t part; } Task;

typedef struct { float m, l, sum[MAX_HEAD]; } Part;

INLINE void merge(Part *into, const Part *next, int64_t d) {
    if (next->l == 0) return;
    if (into->l == 0) {
        memcpy(into, next, sizeof(float) * (size_t)(2 + d));
        return;
    }
    float m = next->m > into->m ? next->m : into->m;
    float keep = exp_of(into->m - m), take = exp_of(next->m - m);
    into->m = m;
    into->l = into->l * keep + next->l * take;
    for (int64_t i = 0; i < d; i += WIDTH) store(into->sum + i, load(into->sum + i) * keep + load(next->sum + i) * take);
}

INLINE void finish(const Part *part, int64_t d, float *out) {
    for (int64_t i = 0; i < d; i += WIDTH) store(out + i, load(part->sum + i) / part->l);
}

// scores[r][0..15] = q[r] . each of 16 keys, for `rows` rows; q is [rows, d], `keys` is [d, 16]. Meanwhile the keys of the
// next step and these keys' values are asked for, a line at a time: blocks lie anywhere, nobody else can foresee them.
INLINE void scores_of(const int rows, const float *q, const uint16_t *keys, const uint16_t *next_keys,
                      const uint16_t *values, int64_t d, float *scores) {
    vec total[4][PARTS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int p = 0; p < PARTS; p++) total[r][p] = (vec){};
    for (int64_t pair = 0; pair < d; pair += 2) {
        __builtin_prefetch(next_keys + pair * KEYS);
        __builtin_prefetch(values + pair * KEYS);
        UNROLL for (int64_t i = pair; i < pair + 2; i++) UNROLL for (int p = 0; p < PARTS; p++) {
            vec k = load_half(keys + i * KEYS + p * WIDTH);
            UNROLL for (int r = 0; r < rows; r++) total[r][p] += q[r * d + i] * k;
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int p = 0; p < PARTS; p++)
        store(scores + r * CHUNK + p * WIDTH, total[r][p]);
}

// Of scores [256]: those of the keys from..to-1 become e^(score - m), the others 0.
INLINE void softmax_part(float *scores, int64_t from, int64_t to, Part *part) {
    part->m = -INFINITY;
    part->l = 0;
    if (from >= to) {
        memset(scores, 0, sizeof(float) * CHUNK);
        return;
    }
    int64_t first = from / KEYS * KEYS, last = (to + KEYS - 1) / KEYS * KEYS;
    for (int64_t i = first; i < from; i++) scores[i] = -INFINITY;
    for (int64_t i = to; i < last; i++) scores[i] = -INFINITY;
    lanes largest, sum = {};
    memcpy(&largest, scores + first, sizeof largest);
    for (int64_t i = first; i < last; i += LANES)
        UNROLL for (int p = 0; p < PARTS; p++) largest.part[p] = vmax(largest.part[p], load(scores + i + p * WIDTH));
    part->m = max_of_lanes(&largest);
    for (int64_t i = first; i < last; i += LANES)
        UNROLL for (int p = 0; p < PARTS; p++) {
            vec e = vexp(load(scores + i + p * WIDTH) - part->m);
            store(scores + i + p * WIDTH, e);
            sum.part[p] += e;
        }
    part->l = sum_of_lanes(&sum);
    memset(scores, 0, sizeof(float) * (size_t)first);
    memset(scores + last, 0, sizeof(float) * (size_t)(CHUNK - last));
}

typedef struct {  // where a sequence's keys lie
    const uint16_t *base;
    const int32_t *table;
    int64_t block_size, block_stride, head_offset, d;
} Keys;

INLINE const uint16_t *sixteen(const Keys *k, int64_t key) {
    return k->base + k->table[key / k->block_size] * k->block_stride + k->head_offset + key % k->block_size * k->d;
}

// sums[r] [d] = sum over the chunk's keys from..to-1 of weights[r][key] * value, 32 coordinates at a time
#define WIDE (32 / WIDTH)
#define WEIGHED (WIDTH == 16 ? 4 : 3)  // rows at once, as many as there are registers for
INLINE void weigh_values(
    const int rows, const float *weights, const Keys *values, int64_t start, int64_t from, int64_t to, Part *parts
) {
    for (int64_t i = 0; i < values->d; i += 32) {
        vec total[4][WIDE];
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int w = 0; w < WIDE; w++) total[r][w] = (vec){};
        for (int64_t step = from / KEYS * KEYS; step < to; step += KEYS) {
            const uint16_t *v = sixteen(values, start + step) + i;
            int64_t first = from > step ? from - step : 0, end = to - step < KEYS ? to - step : KEYS;
            for (int64_t key = first; key < end; key++)
                UNROLL for (int w = 0; w < WIDE; w++) {
                    vec value = load_half(v + key * values->d + w * WIDTH);
                    UNROLL for (int r = 0; r < rows; r++) total[r][w] += weights[r * CHUNK + step + key] * value;
                }
        }
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int w = 0; w < WIDE; w++)
            store(parts[r].sum + i + w * WIDTH, total[r][w]);
    }
}

typedef struct {  // a thread's own room
    float q[MAX_ROWS * MAX_HEAD], scores[MAX_ROWS * CHUNK];
    Part next[MAX_ROWS], sofar[MAX_ROWS];
} Room;

// One chunk for `tokens` tokens at positions `position`..: fills room->next. Rows are ordered token, then head.
static void attend_chunk(Room *room, const Keys *keys, const Keys *values, int64_t start, int64_t position,
                         int64_t tokens, int64_t group, int64_t window) {
    int64_t d = keys->d, rows = tokens * group, last = position + tokens - 1;
    int64_t seen_from = window && position - window + 1 > start ? position - window + 1 - start : 0;
    int64_t seen_to = last + 1 - start < CHUNK ? last + 1 - start : CHUNK;
    for (int64_t step = seen_from / KEYS * KEYS; step < seen_to; step += KEYS) {
        const uint16_t *k = sixteen(keys, start + step), *v = sixteen(values, start + step);
        const uint16_t *next = step + KEYS < seen_to ? sixteen(keys, start + step + KEYS) : k;
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4) scores_of(4, room->q + r * d, k, next, v, d, room->scores + r * CHUNK + step);
        if (rows - r == 3) scores_of(3, room->q + r * d, k, next, v, d, room->scores + r * CHUNK + step);
        if (rows - r == 2) scores_of(2, room->q + r * d, k, next, v, d, room->scores + r * CHUNK + step);
        if (rows - r == 1) scores_of(1, room->q + r * d, k, next, v, d, room->scores + r * CHUNK + step);
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = position + r / group, from = window && at - window + 1 > start ? at - window + 1 - start : 0;
        int64_t to = at + 1 - start < CHUNK ? at + 1 - start : CHUNK;
        softmax_part(room->scores + r * CHUNK, from, to, room->next + r);
    }
    int64_t r = 0;
    for (; r + WEIGHED <= rows; r += WEIGHED)
        weigh_values(WEIGHED, room->scores + r * CHUNK, values, start, seen_from, seen_to, room->next + r);
    for (; r + 2 <= rows; r += 2)
        weigh_values(2, room->scores + r * CHUNK, values, start, seen_from, seen_to, room->next + r);
    for (; r < rows; r++) weigh_values(1, room->scores + r * CHUNK, values, start, seen_from, seen_to, room->next + r);
}

// Asks for the first keys of a task that is to come: within a task each step asks for the next one's.
static void foresee(const Task *t, const Paged *p, const LayerCache *cache) {
    if (cache->window) return;
    int64_t d = p->head_dim, first = (t->part < 0 ? 0 : t->chunk) * CHUNK;
    int64_t block = p->tables[t->sequence * p->table_width + first / p->block_size];
    const uint16_t *keys = cache->keys + (block * p->kv_heads + t->kv_head) * p->block_size * d + first % p->block_size * d;
    for (int64_t i = 0; i < d * KEYS; i += 32) __builtin_prefetch(keys + i);
}

// q: [rows, q_stride], already scaled; out: [rows, heads * d]. With several chunks a one-token task leaves a part.
static void attend(const Task *t, const Paged *p, const LayerCache *cache, const float *q, int64_t q_stride, float *out,
                   Part *parts, Room *room) {
    int64_t d = p->head_dim, group = p->heads / p->kv_heads, s = t->sequence;
    Keys keys = {cache->keys, p->tables + s * p->table_width, p->block_size, p->kv_heads * p->block_size * d,
                 t->kv_head * p->block_size * d, d};
    Keys values = keys;
    values.base = cache->values;
    int64_t position = p->context[s] - (p->query_start[s + 1] - t->row), last = position + t->tokens - 1;
    int64_t rows = t->tokens * group;
    for (int64_t r = 0; r < rows; r++)
        memcpy(room->q + r * d, q + (t->row + r / group) * q_stride + (t->kv_head * group + r % group) * d,
               sizeof(float) * (size_t)d);
    int64_t first = cache->window && position >= cache->window ? (position - cache->window + 1) / CHUNK : 0;
    int64_t from = t->part < 0 ? first : t->chunk, to = t->part < 0 ? last / CHUNK + 1 : t->chunk + 1;
    for (int64_t r = 0; r < rows; r++) room->sofar[r].l = 0;
    for (int64_t chunk = from; chunk < to; chunk++) {
        if (chunk < first) continue;
        attend_chunk(room, &keys, &values, chunk * CHUNK, position, t->tokens, group, cache->window);
        for (int64_t r = 0; r < rows; r++) merge(room->sofar + r, room->next + r, d);
    }
    for (int64_t r = 0; r < rows; r++) {
        if (t->part >= 0) memcpy(parts + t->part + r * t->chunks, room->sofar + r, sizeof(Part));
        else finish(room->sofar + r, d, out + (t->row + r / group) * p->heads * d + (t->kv_head * group + r % group) * d);
    }
}
