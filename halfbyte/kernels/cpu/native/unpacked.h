// Products with 4-bit weights for many rows: a tile's nibbles are made bytes once, and then serve all of them. Only for
// instruction sets where taking nibbles apart is a good part of the work (x86_256.h without VNNI says so by UNPACKS).
// The arithmetic and its order are int4_rows': the numbers are the same to the last bit.
#pragma once
#include "int4.h"

#ifdef UNPACKS
#define UNPACK_FROM 8  // rows from which it pays

typedef struct {
    uint8_t *q;     // [inputs / 32, 8, 64], as int8.h has them
    float *scales;  // [groups, 16]
    Words *zeros;   // [groups, SLICES]
} Unpacked;

#define UNPACKED_BYTES(inputs) ((inputs) * TILE + (inputs) / BLOCK * TILE * 8)  // at most: groups may be of one block

INLINE Unpacked unpacked_in(void *room, const Int4Linear *w) {
    uint8_t *start = room;
    int64_t q = w->inputs * TILE, scales = w->inputs / w->group * TILE * 4;
    return (Unpacked){start, (float *)(start + q), (Words *)(start + q + scales)};
}

static Unpacked unpack(const Int4Linear *w, int64_t tile, void *room) {
    Unpacked to = unpacked_in(room, w);
    int64_t blocks = w->inputs / BLOCK, groups = w->inputs / w->group;
    const uint8_t *q = w->q + tile * blocks * 256;
    for (int64_t v = 0; v < blocks * 4; v++) {
        __builtin_prefetch(q + 2 * blocks * 256 + v * 64, 0, 2);  // what comes after the next, while this one is at work
        for (int s = 0; s < 64; s += 32) {
            store_words(to.q + v * 128 + s, low_nibbles(q + v * 64 + s));
            store_words(to.q + v * 128 + 64 + s, high_nibbles(q + v * 64 + s));
        }
    }
    for (int64_t i = 0; i < groups * SLICES; i++) {
        store_floats(to.scales + i * SLICE, load_halves(w->scales + tile * groups * TILE + i * SLICE));
        store_words(to.zeros + i, load_zeros(w->zeros + tile * groups * TILE + i * SLICE));
    }
    return to;
}

// y [rows, stride] = the tile's outputs of these rows, without bias, for `rows` <= PACK rows. per_group: a constant where
// it is 1, so that no parts have to be kept.
INLINE void unpacked_rows(
    const int rows, const Unpacked *w, int64_t groups, const int64_t per_group, const Rounded32 *from, float *y, int64_t stride
) {
    Floats total[PACK][SLICES], part[PACK][SLICES];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++) total[r][s] = no_floats();
    for (int64_t g = 0; g < groups; g++) {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++) part[r][s] = no_floats();
        for (int64_t b = 0; b < per_group; b++) {
            const Rounded32 *in = from + (g * per_group + b) * PACK;
            Words sums[PACK][SLICES];
            dot_unpacked(rows, w->q + (g * per_group + b) * 512, w->zeros + g * SLICES, in, sums);
            UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++)
                part[r][s] = add_scaled(part[r][s], to_floats(sums[r][s]), repeat(in[r].scale));
        }
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++)
            total[r][s] = add_scaled(total[r][s], part[r][s], load_floats(w->scales + g * TILE + s * SLICE));
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++)
        store_floats(y + r * stride + s * SLICE, total[r][s]);
}

// As many of the `left` rows as go together; returns how many. By itself, so that it has the registers to itself.
__attribute__((noinline)) static int unpacked_some(
    const Unpacked *w, int64_t groups, int64_t per_group, const Rounded32 *from, int64_t left, float *y, int64_t stride
) {
    if (left >= 4 && per_group == 1) { unpacked_rows(4, w, groups, 1, from, y, stride); return 4; }
    if (left >= 4) { unpacked_rows(4, w, groups, per_group, from, y, stride); return 4; }
    if (left >= 2) { unpacked_rows(2, w, groups, per_group, from, y, stride); return 2; }
    unpacked_rows(1, w, groups, per_group, from, y, stride);
    return 1;
}
#endif
