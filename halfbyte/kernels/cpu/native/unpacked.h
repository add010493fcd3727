// Products with 4-bit weights for many rows: a tile's nibbles are made bytes once, and its scales and zero points floats,
// and then serve all rows. Only for instruction sets where taking nibbles apart is a good part of the work (x86_256.h
// without VNNI says so by UNPACKS). The arithmetic and its order stay: the numbers are the same to the last bit.
#pragma once
#include "int4.h"

#if UNPACKS
#define UNPACK_FROM 32  // rows from which it pays

// At most, for groups may be of one block: a byte a weight, [inputs / 32, 8, 64] as int8.h has them; scales and zero
// points [groups, 16].
INLINE size_t tile_bytes(int64_t inputs) { return (size_t)(inputs * TILE + inputs / BLOCK * TILE * 8); }

static TileWeights unpack(const Int4Linear *w, TileWeights from, void *room) {
    int64_t blocks = w->inputs / BLOCK, groups = w->inputs / w->group;
    uint8_t *q = room;
    float *scales = (float *)(q + w->inputs * TILE), *zeros = scales + groups * TILE;
    for (int64_t v = 0; v < blocks * 4; v++)
        for (int s = 0; s < 64; s += 32) {
            store_words(q + v * 128 + s, low_nibbles(from.q + v * 64 + s));
            store_words(q + v * 128 + 64 + s, high_nibbles(from.q + v * 64 + s));
        }
    for (int64_t i = 0; i < groups * TILE; i += SLICE) {
        store_floats(scales + i, load_halves((const uint16_t *)from.scales + i));
        store_floats(zeros + i, to_floats(load_zeros((const uint8_t *)from.zeros + i)));
    }
    return (TileWeights){q, scales, zeros};
}
#else
INLINE size_t tile_bytes(int64_t inputs) { return 0 * (size_t)inputs; }
#endif
