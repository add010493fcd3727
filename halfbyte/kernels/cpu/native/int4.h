// Products with 4-bit weights, sixteen outputs at a time.
//
// A tile holds 16 outputs. For each 32 inputs it has four vectors of 64 bytes, and in each, output r owns bytes 4r to
// 4r + 3: vector v keeps inputs 8v to 8v + 3 in the low nibbles and 8v + 4 to 8v + 7 in the high ones. So four inputs of
// one activation, repeated in every 32-bit lane, meet four weights of each output in one multiply-add instruction.
//
// An output is  sum over groups of  scale * sum over the group's blocks of  x.scale * (sum of q x.q - zero * x.sum).
// The inner bracket is an exact integer, the outer sums run in this order for every row by itself: a row's result does
// not depend on what else is in the batch, on the threads or on the instruction set.
#pragma once
#include "rows.h"

#define TILE 16

typedef struct {
    int64_t outputs, inputs, group;  // the group is a multiple of 32
    const uint8_t *q;                // [tiles, inputs / 32, 4, 64]
    const uint16_t *scales;          // [tiles, inputs / group, 16] float16
    const uint8_t *zeros;            // [tiles, inputs / group, 16]
    const float *bias;               // [outputs], or null
} Int4Linear;

INLINE int64_t tiles_of(int64_t outputs) { return (outputs + TILE - 1) / TILE; }

// Each instruction set brings a vector of SLICE lanes: a tile is TILE / SLICE of them.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(HALFBYTE_256)
#include "x86_512.h"
#elif defined(__AVX2__)
#include "x86_256.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "arm_dot.h"
#else
#include "portable.h"
#endif
#define SLICES (TILE / SLICE)

// How far ahead of the weights in use the next are asked for: a tile is read once, in order, and the machine's own
// prefetching stops at the end of each page.
#define AHEAD 2048

INLINE void fetch_ahead(const void *p, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + AHEAD + i);
}

// y [rows, stride] = this tile's outputs of the rows from `row` on, without bias, for `rows` <= PACK rows.
INLINE void int4_rows(
    const int rows, const Int4Linear *w, int64_t tile, const Rounded *x, int64_t row, float *y, int64_t stride
) {
    int64_t blocks = w->inputs / BLOCK, groups = w->inputs / w->group, per_group = w->group / BLOCK;
    const uint8_t *q = w->q + tile * blocks * 256;
    const uint16_t *scales = w->scales + tile * groups * TILE;
    const uint8_t *zeros = w->zeros + tile * groups * TILE;
    const Rounded32 *from = block_of(x, row, 0);
    Floats total[PACK][SLICES], part[PACK][SLICES];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++) total[r][s] = no_floats();
    for (int64_t g = 0, b = 0; g < groups; g++) {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++) part[r][s] = no_floats();
        for (int64_t end = (g + 1) * per_group; b < end; b++) {
            const Rounded32 *in = from + b * PACK;
            Words sums[PACK][SLICES];
            if (row == 0) fetch_ahead(q + b * 256, 256);
            dot_nibbles(rows, q + b * 256, zeros + g * TILE, in, sums);
            UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++)
                part[r][s] = add_scaled(part[r][s], to_floats(sums[r][s]), repeat(in[r].scale));
        }
        UNROLL for (int s = 0; s < SLICES; s++) {
            Floats scale = load_halves(scales + g * TILE + s * SLICE);
            UNROLL for (int r = 0; r < rows; r++) total[r][s] = add_scaled(total[r][s], part[r][s], scale);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++)
        store_floats(y + r * stride + s * SLICE, total[r][s]);
}
