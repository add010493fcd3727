// Products with 4-bit weights for many rows: while the first of them meet a tile its nibbles are kept as bytes, and its
// scales and zero points as floats, and serve the others so. Only for instruction sets where taking nibbles apart is a good
// part of the work (rows.h says which by UNPACKS). The arithmetic and its order stay: the numbers are the same to the last
// bit.
#pragma once
#include "int4.h"

#if UNPACKS
#define UNPACK_FROM (2 * PACK)  // rows from which it pays

// At most, for groups may be of one block: a byte a weight, [inputs / 32, 8, 64] as int8.h has them; scales and zero
// points [groups, 16].
INLINE size_t tile_bytes(int64_t inputs) { return (size_t)(inputs * TILE + inputs / BLOCK * TILE * 8); }

INLINE TileWeights place_to_unpack(const Int4Linear *w, void *room) {
    uint8_t *q = room;
    float *scales = (float *)(q + w->inputs * TILE);
    return (TileWeights){q, scales, scales + w->inputs / w->group * TILE};
}
#else
INLINE size_t tile_bytes(int64_t inputs) { return 0 * (size_t)inputs; }
#endif
