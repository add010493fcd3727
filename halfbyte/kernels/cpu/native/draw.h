// Draws a token from a row of logits: temperature, min_p, top_k, top_p, in this order (engine/sampler.py), among all
// tokens or those that a constraint allows. A row's token depends on nothing but the row and its random number.
#pragma once
#include "lanes.h"
#include "likeliest.h"
#include "pool.h"
#include <stdlib.h>

#define PIECE 64  // logits whose weights are summed in float; sums of pieces are added up in double, in order

typedef struct {
    const float *logits;      // [width]; -inf has no chance
    const uint32_t *allowed;  // a bit for each token, the first the lowest; or null: all are
    double temperature, top_p, min_p, uniform;  // a temperature of 0 takes the likeliest
    int64_t top_k;            // 0: all
    int64_t is_trial;  // to draw from all by temperature alone, and then to say in is_trial whether what was drawn would
                       // also be among what the parameters leave of any part of the vocabulary that it belongs to
    int64_t first;     // a token to take if it is among what the parameters leave, or -1
    int64_t token;     // what was drawn, or NOT_FINITE: there was none to draw
} DrawRow;

typedef struct {
    DrawRow *rows;
    int64_t count, width;
    char *rooms;  // [threads, draw_bytes(width)]
} Draw;

typedef struct { float weight; int32_t token; } Candidate;

INLINE int64_t pieces_of(int64_t width) { return (width + PIECE - 1) / PIECE; }
INLINE size_t draw_bytes(int64_t width) {
    return (size_t)pieces_of(width) * (PIECE * (sizeof(float) + sizeof(Candidate)) + sizeof(double)) + 64;
}

// Lane by lane, whether tokens i, i + 1, ... are allowed; i is a multiple of WIDTH, which divides 32.
INLINE ivec allowed_lanes(const uint32_t *allowed, int64_t i) {
    ivec lane;
    for (int l = 0; l < WIDTH; l++) lane[l] = 1 << l;
    return (((ivec){} + (int32_t)(allowed[i / 32] >> i % 32)) & lane) != 0;
}

// The logits i, i + 1, ...; -inf behind the last, and where a token is not allowed.
INLINE vec logits_at(const DrawRow *row, int64_t i, int64_t width) {
    float last[WIDTH];
    if (i + WIDTH > width)
        for (int l = 0; l < WIDTH; l++) last[l] = i + l < width ? row->logits[i + l] : -INFINITY;
    vec x = i + WIDTH > width ? load(last) : load(row->logits + i);
    return row->allowed && i < width ? choose(allowed_lanes(row->allowed, i), x, all(-INFINITY)) : x;
}

// The first of the largest; -1 if none is above -inf.
static int64_t best_of(const DrawRow *row, int64_t width, float *top) {
    lanes most;
    for (int p = 0; p < PARTS; p++) most.part[p] = all(-INFINITY);
    for (int64_t i = 0; i < width; i += LANES)
        UNROLL for (int p = 0; p < PARTS; p++)
            most.part[p] = vmax(most.part[p], logits_at(row, i + p * WIDTH, width));
    *top = max_of_lanes(&most);
    if (!(*top > -INFINITY)) return NOT_FINITE;
    for (int64_t i = 0; i < width; i++)
        if (row->logits[i] == *top && (!row->allowed || row->allowed[i / 32] >> i % 32 & 1)) return i;
    return NOT_FINITE;
}

// weights [pieces * PIECE] relative to the likeliest's; sums [pieces]; returns their total.
static double weigh(const DrawRow *row, int64_t width, float top, float *weights, double *sums) {
    double total = 0, inverse = 1 / row->temperature;
    vec scale = all((float)(inverse > 1e-30 ? inverse : 1e-30)), least = all(row->is_trial ? 0 : (float)row->min_p);
    for (int64_t piece = 0; piece < pieces_of(width); piece++) {
        lanes sum = {};
        for (int64_t i = piece * PIECE; i < (piece + 1) * PIECE; i += LANES)
            UNROLL for (int p = 0; p < PARTS; p++) {
                vec w = vexp((logits_at(row, i + p * WIDTH, width) - top) * scale);
                w = choose(w >= least, w, (vec){});
                store(weights + i + p * WIDTH, w);
                sum.part[p] += w;
            }
        sums[piece] = sum_of_lanes(&sum);
        total += sums[piece];
    }
    return total;
}

// The token at which the running total of all weights exceeds the target.
static int64_t find_any(const float *weights, const double *sums, int64_t pieces, double target) {
    int64_t piece = 0, last = -1;
    for (; piece < pieces - 1 && target >= sums[piece]; piece++) target -= sums[piece];
    while (sums[piece] == 0) piece--;  // rounding went past the last
    for (int64_t i = piece * PIECE; i < (piece + 1) * PIECE; i++) {
        if (weights[i] > 0) last = i;
        if (target < weights[i]) return i;
        target -= weights[i];
    }
    return last;
}

static int by_weight(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

// Those over `least`; *mass is what they weigh together.
static int64_t gather_candidates(const float *weights, int64_t width, float least, Candidate *to, double *mass) {
    int64_t count = 0;
    *mass = 0;
    for (int64_t i = 0; i < width; i += LANES) {
        lanes high;
        UNROLL for (int p = 0; p < PARTS; p++) high.part[p] = load(weights + i + p * WIDTH);
        if (!(max_of_lanes(&high) > least)) continue;
        for (int64_t l = i; l < i + LANES; l++)
            if (weights[l] > least) {
                to[count++] = (Candidate){weights[l], (int32_t)l};
                *mass += weights[l];
            }
    }
    return count;
}

// From the top_k likeliest those that reach top_p of what they weigh: only as much of the vocabulary is sorted as it takes.
static int64_t find_among_likeliest(const DrawRow *row, const float *weights, int64_t width, double total, Candidate *of) {
    int64_t count = 0, most = row->top_k > 0 ? row->top_k : INT64_MAX;
    const float cuts[] = {0x1p-6f, 0x1p-12f, 0x1p-20f, 0};
    for (int c = 0; c < 4; c++) {
        double mass;
        count = gather_candidates(weights, width, cuts[c], of, &mass);
        if (count >= most || (most == INT64_MAX && mass >= total * row->top_p)) break;
    }
    qsort(of, (size_t)count, sizeof *of, by_weight);
    if (most < count) count = most;
    if (most != INT64_MAX) {
        total = 0;
        for (int64_t i = 0; i < count; i++) total += of[i].weight;
    }
    double before = 0, kept = 0;
    int64_t last = 0;
    for (; last < count && (last == 0 || before < total * row->top_p); last++) before = kept += of[last].weight;
    for (int64_t i = 0; i < last; i++)
        if (of[i].token == row->first) return row->first;
    double target = row->uniform * kept, sum = 0;
    for (int64_t i = 0; i < last; i++) {
        sum += of[i].weight;
        if (target < sum) return of[i].token;
    }
    return of[last - 1].token;
}

// Whether a token of this weight is left by the parameters, whichever others of the vocabulary there are. Tokens that
// weigh at least as much have `before` together: at most so much is before it. It is then in the nucleus if
// before < top_p * (before + its weight + what comes after it), and what comes after is 0 or more.
static int is_left(const DrawRow *row, const float *weights, int64_t count, float weight) {
    double before = 0;
    int64_t rank = 0;
    for (int64_t i = 0; i < count; i += LANES) {
        lanes high;
        UNROLL for (int p = 0; p < PARTS; p++) high.part[p] = load(weights + i + p * WIDTH);
        if (max_of_lanes(&high) < weight) continue;
        for (int64_t l = i; l < i + LANES; l++)
            if (weights[l] >= weight) {
                before += weights[l];
                rank++;
            }
    }
    before -= weight;
    return weight >= (float)row->min_p && (row->top_k <= 0 || rank <= row->top_k) &&
           before * (1 - row->top_p) < weight * row->top_p;
}

static void draw_row(DrawRow *row, int64_t width, char *room) {
    int64_t pieces = pieces_of(width);
    double *sums = (double *)room;
    float *weights = (float *)(sums + pieces), top;
    row->token = best_of(row, width, &top);
    if (row->token < 0 || row->temperature == 0) return;
    double total = weigh(row, width, top, weights, sums);
    if (row->is_trial) {
        row->token = find_any(weights, sums, pieces, row->uniform * total);
        row->is_trial = is_left(row, weights, pieces * PIECE, weights[row->token]);
    } else if (row->top_k <= 0 && row->top_p >= 1) {
        int is_in = row->first >= 0 && weights[row->first] > 0;
        row->token = is_in ? row->first : find_any(weights, sums, pieces, row->uniform * total);
    } else
        row->token = find_among_likeliest(row, weights, pieces * PIECE, total, (Candidate *)(weights + pieces * PIECE));
}

static void draw_job(Worker me, void *argument) {
    const Draw *p = argument;
    int64_t i, end = share(me, p->count, &i);
    for (; i < end; i++) draw_row(p->rows + i, p->width, p->rooms + (size_t)me.id * draw_bytes(p->width));
}
