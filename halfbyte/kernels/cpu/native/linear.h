// From tiles to whole products: as many rows at once as there are, in powers of two.
#pragma once
#include "int8.h"
#include "pool.h"
#include "unpacked.h"

#define SOME_ROWS(name, kernel, Weight)                                                                              \
    /* Computes 1, 2, 4 or 8 of the `left` rows from `row` on; returns how many. */                                  \
    static int name(                                                                                                 \
        const Weight *w, int64_t tile, const Rounded *x, int64_t row, int64_t left, float *y, int64_t stride         \
    ) {                                                                                                              \
        if (PACK >= 8 && left >= 8) { kernel(8 <= PACK ? 8 : 1, w, tile, x, row, y, stride); return 8; }             \
        if (PACK >= 4 && left >= 4) { kernel(4 <= PACK ? 4 : 1, w, tile, x, row, y, stride); return 4; }             \
        if (PACK >= 2 && left >= 2) { kernel(2, w, tile, x, row, y, stride); return 2; }                             \
        kernel(1, w, tile, x, row, y, stride);                                                                       \
        return 1;                                                                                                    \
    }
SOME_ROWS(int4_some, int4_rows, Int4Linear)
SOME_ROWS(int8_some, int8_rows, Int8Linear)
#undef SOME_ROWS

// A tile at work: of a 4-bit product, as bytes where it has many rows to meet.
typedef struct {
    const Int4Linear *w;
    int64_t index;
#ifdef UNPACKS
    int is_unpacked;
    Unpacked bytes;
#endif
} Tile;

#ifdef UNPACKS
INLINE size_t tile_bytes(int64_t inputs) { return (size_t)UNPACKED_BYTES(inputs); }

// room: tile_bytes(inputs), a worker's own.
INLINE Tile tile_at(const Int4Linear *w, int64_t index, int64_t rows, void *room) {
    if (rows < UNPACK_FROM) return (Tile){w, index, 0, {0}};
    return (Tile){w, index, 1, unpack(w, index, room)};
}

// y [rows, stride]; returns how many of the `left` rows it computed.
INLINE int tile_rows(const Tile *t, const Rounded *x, int64_t row, int64_t left, float *y, int64_t stride) {
    if (!t->is_unpacked) return int4_some(t->w, t->index, x, row, left, y, stride);
    int64_t groups = t->w->inputs / t->w->group, per_group = t->w->group / BLOCK;
    return unpacked_some(&t->bytes, groups, per_group, block_of(x, row, 0), left, y, stride);
}
#else
INLINE size_t tile_bytes(int64_t inputs) { return 0 * (size_t)inputs; }
INLINE Tile tile_at(const Int4Linear *w, int64_t index, int64_t rows, void *room) { return (Tile){w, index}; }
INLINE int tile_rows(const Tile *t, const Rounded *x, int64_t row, int64_t left, float *y, int64_t stride) {
    return int4_some(t->w, t->index, x, row, left, y, stride);
}
#endif

INLINE int64_t width_of_tile(int64_t outputs, int64_t tile) {
    int64_t left = outputs - tile * TILE;
    return left < TILE ? left : TILE;
}

// y [rows, outputs] = (or, adding, +=) x W^T + bias, this worker's tiles of it. room: see tile_at.
static void int4_linear(
    Worker me, const Int4Linear *w, const Rounded *x, int64_t rows, float *y, int adding, void *room
) {
    float out[PACK][TILE];
    int64_t index, end = share(me, tiles_of(w->outputs), &index);
    for (; index < end; index++) {
        int64_t width = width_of_tile(w->outputs, index);
        const float *bias = w->bias ? w->bias + index * TILE : 0;
        int at_once = !adding && !bias && width == TILE;
        Tile tile = tile_at(w, index, rows, room);
        for (int64_t row = 0, done; row < rows; row += done) {
            float *to = y + row * w->outputs + index * TILE;
            done = tile_rows(&tile, x, row, rows - row, at_once ? to : &out[0][0], at_once ? w->outputs : TILE);
            for (int64_t r = 0; r < done && !at_once; r++, to += w->outputs)
                for (int64_t i = 0; i < width; i++) {
                    float value = bias ? out[r][i] + bias[i] : out[r][i];
                    to[i] = adding ? to[i] + value : value;
                }
        }
    }
}

static void int8_linear(Worker me, const Int8Linear *w, const Rounded *x, int64_t rows, float *y) {
    float out[PACK][TILE];
    int64_t tile, end = share(me, tiles_of(w->outputs), &tile);
    for (; tile < end; tile++)
        for (int64_t row = 0, done; row < rows; row += done) {
            done = int8_some(w, tile, x, row, rows - row, &out[0][0], TILE);
            for (int64_t r = 0; r < done; r++)
                memcpy(y + (row + r) * w->outputs + tile * TILE, out[r], 4 * width_of_tile(w->outputs, tile));
        }
}

// Two tiles of a product: 32 neighbouring outputs, with bias.
INLINE void two_tiles(const Tile *tiles, const Rounded *x, int64_t row, int64_t left, float (*out)[2][TILE]) {
    for (int t = 0; t < 2; t++) {
        int done = tile_rows(tiles + t, x, row, left, out[0][t], 2 * TILE);
        const float *bias = tiles[t].w->bias;
        for (int r = 0; r < done && bias; r++)
            for (int i = 0; i < TILE; i++) out[r][t][i] += bias[tiles[t].index * TILE + i];
    }
}

// SiLU(x gate^T) * (x up^T), rounded for the product that follows. Its width is a multiple of 32. room: for four tiles.
static void gated(Worker me, const Int4Linear *gate, const Int4Linear *up, const Rounded *x, int64_t rows,
                  const Rounded *to, void *room) {
    float g[PACK][2][TILE], u[PACK][2][TILE];
    int64_t blocks = gate->outputs / BLOCK, b, end = share(me, blocks, &b);
    for (; b < end; b++) {
        Tile tiles[4];
        for (int t = 0; t < 4; t++) {
            char *own = (char *)room + t * tile_bytes(gate->inputs);
            tiles[t] = tile_at(t < 2 ? gate : up, 2 * b + t % 2, rows, own);
        }
        for (int64_t row = 0, done; row < rows; row += done) {
            int64_t left = rows - row;
            done = 1;
            while (done * 2 <= left && done * 2 <= PACK) done *= 2;
            two_tiles(tiles, x, row, left, g);
            two_tiles(tiles + 2, x, row, left, u);
            for (int64_t r = 0; r < done; r++) {
                float *a = &g[r][0][0], *c = &u[r][0][0];
                for (int i = 0; i < BLOCK; i += WIDTH) {
                    vec v = load(a + i);
                    store(a + i, v / (1.0f + vexp(-v)) * load(c + i));
                }
                round_block(a, block_of(to, row + r, b));
            }
        }
    }
}
