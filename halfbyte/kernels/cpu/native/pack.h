// Weights into tiles. Outputs beyond the last are zeros.
#pragma once
#include "linear.h"

typedef struct {
    const uint8_t *q, *zeros;  // [outputs, inputs], one weight a byte; [outputs, groups]
    const uint16_t *scales;    // [outputs, groups] float16
    Int4Linear *to;
} PackInt4;

static void pack_int4_job(Worker me, void *argument) {
    const PackInt4 *p = argument;
    int64_t n = p->to->outputs, k = p->to->inputs, groups = k / p->to->group, tile, end = share(me, tiles_of(n), &tile);
    for (; tile < end; tile++)
        for (int64_t r = 0; r < TILE; r++) {
            int64_t row = tile * TILE + r;
            uint8_t *to = (uint8_t *)p->to->q + tile * k * 8 + 4 * r;
            const uint8_t *from = p->q + row * k;
            for (int64_t i = 0; i < k; i += 8)
                for (int64_t j = 0; j < 4; j++)
                    to[i * 8 + j] = row < n ? (uint8_t)(from[i + j] | from[i + 4 + j] << 4) : 0;
            for (int64_t g = 0; g < groups; g++) {
                ((uint16_t *)p->to->scales)[(tile * groups + g) * TILE + r] = row < n ? p->scales[row * groups + g] : 0;
                ((uint8_t *)p->to->zeros)[(tile * groups + g) * TILE + r] = row < n ? p->zeros[row * groups + g] : 0;
            }
        }
}

typedef struct {
    const float *weight;  // [outputs of these tiles, inputs]
    int64_t first, count;  // tiles
    Int8Linear *to;
} PackInt8;

// Rounds to 7 bits, symmetric: the scale is a block's largest magnitude / 63.
static void pack_int8_job(Worker me, void *argument) {
    const PackInt8 *p = argument;
    int64_t k = p->to->inputs, blocks = k / BLOCK, t, end = share(me, p->count, &t);
    for (; t < end; t++)
        for (int64_t r = 0; r < TILE; r++)
            for (int64_t b = 0; b < blocks; b++) {
                int64_t tile = p->first + t, row = t * TILE + r, at = tile * blocks + b;
                Rounded32 w = {0};
                if (tile * TILE + r < p->to->outputs) round_within(p->weight + row * k + b * BLOCK, MIDDLE - 1, &w);
                p->to->scales[at * TILE + r] = w.scale;
                for (int64_t i = 0; i < BLOCK; i++)
                    p->to->q[at * 512 + i / 4 * 64 + 4 * r + i % 4] = (uint8_t)(w.q[i] + MIDDLE);
            }
}
