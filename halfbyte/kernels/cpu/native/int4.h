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
#define MIDDLE 64  // what stands for 0 in int8.h

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

// Weights that will be needed soon, asked for a few lines a block, so that memory and arithmetic go on side by side.
typedef struct {
    const char *at;
    int lines;
} Ahead;

// How far ahead of the weights in use the next are asked for if a tile is read only once: it is read in order, and the
// machine's own prefetching stops at the end of each page.
#define AHEAD 2048

// Rows from `row` on, of `rows`, meet a tile at `q` whose blocks take `lines` lines each; `next` is needed after it. Where
// there are several packs of rows, the first four together ask for all of it.
INLINE Ahead ahead_of(const void *q, const void *next, int64_t blocks, int lines, int64_t rows, int64_t row) {
    if (rows <= PACK) return (Ahead){(const char *)q + AHEAD, lines};
    int64_t packs = rows <= 2 * PACK ? 2 : 4, pack = row / PACK;
    return (Ahead){(const char *)next + pack * blocks * 64 * (lines / packs), pack < packs ? lines / (int)packs : 0};
}

INLINE void fetch_lines(Ahead *ahead) {
    for (int i = 0; i < ahead->lines; i++, ahead->at += 64) __builtin_prefetch(ahead->at);
}

typedef struct {  // a tile
    const uint8_t *q;
    const void *scales, *zeros;
} TileWeights;

INLINE TileWeights nibbles_of(const Int4Linear *w, int64_t tile) {
    int64_t k = w->inputs, groups = k / w->group;
    return (TileWeights){w->q + tile * k * 8, w->scales + tile * groups * TILE, w->zeros + tile * groups * TILE};
}

// How a product finds its tile: in nibbles; in nibbles, to be kept in bytes for the rows that follow; or in bytes.
enum { NIBBLES, UNPACKING, BYTES };

// y [rows, stride] = a tile's outputs of the rows whose first block is `from`, without bias, for `rows` <= PACK rows.
// kept: where to unpack to (unpacked.h). per_group: blocks; a constant where it is 1, so that no parts are kept.
INLINE void int4_rows(const int rows, const int form, const int64_t per_group, TileWeights w, TileWeights kept,
                      int64_t inputs, const Rounded32 *from, Ahead ahead, float *y, int64_t stride) {
    Floats total[PACK][SLICES], part[PACK][SLICES], sums[PACK][SLICES];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++) total[r][s] = no_floats();
    for (int64_t g = 0, b = 0, blocks = inputs / BLOCK; b < blocks; g++) {
        for (int64_t i = 0; i < per_group; i++, b++) {
            const Rounded32 *in = from + b * PACK;
            fetch_lines(&ahead);
#if UNPACKS
            if (form == BYTES) dot_unpacked(rows, w.q + b * 512, (const float *)w.zeros + g * TILE, in, sums);
            else if (form == UNPACKING)
                dot_and_keep(rows, w.q + b * 256, (const uint8_t *)w.zeros + g * TILE, in, sums,
                             (uint8_t *)kept.q + b * 512, (float *)kept.zeros + g * TILE);
            else
#endif
                dot_nibbles(rows, w.q + b * 256, (const uint8_t *)w.zeros + g * TILE, in, sums);
            UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++) {
                Floats scale = repeat(in[r].scale);
                part[r][s] = i ? add_scaled(part[r][s], sums[r][s], scale) : scaled(sums[r][s], scale);
            }
        }
        UNROLL for (int s = 0; s < SLICES; s++) {
            int64_t at = g * TILE + s * SLICE;
            Floats scale = form == BYTES ? load_floats((const float *)w.scales + at) : load_halves((const uint16_t *)w.scales + at);
            if (form == UNPACKING) store_floats((float *)kept.scales + at, scale);
            UNROLL for (int r = 0; r < rows; r++) total[r][s] = add_scaled(total[r][s], part[r][s], scale);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++)
        store_floats(y + r * stride + s * SLICE, total[r][s]);
}
