// From tiles to whole products: as many rows at once as there are, in powers of two.
#pragma once
#include "foresight.h"
#include "int8.h"
#include "pool.h"
#include "unpacked.h"

// Calls kernel(rows, ...) for 1, 2, 4 or 8 of the rows that are left, and returns how many.
#define SOME_ROWS(left, kernel, ...)                                                  \
    if (PACK >= 8 && left >= 8) { kernel(8 <= PACK ? 8 : 1, __VA_ARGS__); return 8; } \
    if (PACK >= 4 && left >= 4) { kernel(4 <= PACK ? 4 : 1, __VA_ARGS__); return 4; } \
    if (PACK >= 2 && left >= 2) { kernel(2, __VA_ARGS__); return 2; }                 \
    kernel(1, __VA_ARGS__);                                                           \
    return 1;

// Each by itself, so that it has the registers to itself.
#define INT4_SOME(name, form, per_group)                                                                                  \
    __attribute__((noinline)) static int name(const Int4Linear *w, TileWeights tile, const Rounded32 *from, int64_t left, \
                                              Ahead ahead, float *y, int64_t stride) {                                    \
        SOME_ROWS(left, int4_rows, form, per_group, tile, tile, w->inputs, from, ahead, y, stride)                        \
    }
INT4_SOME(small_groups, NIBBLES, 1)
INT4_SOME(any_groups, NIBBLES, w->group / BLOCK)
#if UNPACKS
INT4_SOME(unpacked_small_groups, BYTES, 1)
INT4_SOME(unpacked_any_groups, BYTES, w->group / BLOCK)

// For PACK rows.
#define INT4_UNPACKING(name, per_group)                                                                              \
    __attribute__((noinline)) static int name(const Int4Linear *w, TileWeights tile, TileWeights to,                 \
                                              const Rounded32 *from, Ahead ahead, float *y, int64_t stride) {        \
        int4_rows(PACK, UNPACKING, per_group, tile, to, w->inputs, from, ahead, y, stride);                          \
        return PACK;                                                                                                 \
    }
INT4_UNPACKING(unpacking_small_groups, 1)
INT4_UNPACKING(unpacking_any_groups, w->group / BLOCK)
#endif

static int int8_some(const Int8Linear *w, int64_t tile, const Rounded32 *from, int64_t left, Ahead ahead, float *y) {
    SOME_ROWS(left, int8_rows, w, tile, from, ahead, y)
}

// A tile at work, of a 4-bit product of `rows` rows.
typedef struct {
    const Int4Linear *w;
    int64_t index, rows;
    const uint8_t *next;  // of the tile that this worker will need after it
    TileWeights weights, unpacked;
    int form;
} Tile;

// room: tile_bytes(inputs), a worker's own, until the tile is done. step: to the worker's next tile.
INLINE Tile tile_at(const Int4Linear *w, int64_t index, int64_t rows, int step, void *room) {
    Tile tile = {w, index, rows, nibbles_of(w, index + step).q, nibbles_of(w, index), {0}, NIBBLES};
#if UNPACKS
    if (rows >= UNPACK_FROM) {
        tile.unpacked = place_to_unpack(w, room);
        tile.form = UNPACKING;
    }
#endif
    return tile;
}

// y [rows, stride]; returns how many of the rows from `row` on it computed. Rows come in order.
INLINE int tile_rows(Tile *t, const Rounded *x, int64_t row, float *y, int64_t stride) {
    const Rounded32 *from = block_of(x, row, 0);
    int64_t left = t->rows - row, small = t->w->group == BLOCK;
    Ahead ahead = ahead_of(t->weights.q, t->next, t->w->inputs / BLOCK, 4, t->rows, row);
#if UNPACKS
    if (t->form == BYTES)
        return (small ? unpacked_small_groups : unpacked_any_groups)(t->w, t->unpacked, from, left, ahead, y, stride);
    if (t->form == UNPACKING) {
        t->form = BYTES;
        return (small ? unpacking_small_groups : unpacking_any_groups)(t->w, t->weights, t->unpacked, from, ahead, y, stride);
    }
#endif
    return (small ? small_groups : any_groups)(t->w, t->weights, from, left, ahead, y, stride);
}

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
        Tile tile = tile_at(w, index, rows, 1, room);
        for (int64_t row = 0, done; row < rows; row += done) {
            float *to = y + row * w->outputs + index * TILE;
            done = tile_rows(&tile, x, row, at_once ? to : &out[0][0], at_once ? w->outputs : TILE);
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
    int64_t tile, end = share(me, tiles_of(w->outputs), &tile), blocks = w->inputs / BLOCK;
    for (; tile < end; tile++) {
        const uint8_t *q = w->q + tile * blocks * 512, *next = q + blocks * 512;
        for (int64_t row = 0, done; row < rows; row += done) {
            Ahead ahead = ahead_of(q, next, blocks, 8, rows, row);
            done = int8_some(w, tile, block_of(x, row, 0), rows - row, ahead, &out[0][0]);
            for (int64_t r = 0; r < done; r++)
                memcpy(y + (row + r) * w->outputs + tile * TILE, out[r], 4 * width_of_tile(w->outputs, tile));
        }
    }
}

// Two tiles of a product: 32 neighbouring outputs, with bias.
INLINE void two_tiles(Tile *tiles, const Rounded *x, int64_t row, Foresight *next, float (*out)[2][TILE]) {
    for (int t = 0; t < 2; t++) {
        foresee_some(next);
        int done = tile_rows(tiles + t, x, row, out[0][t], 2 * TILE);
        const float *bias = tiles[t].w->bias;
        for (int r = 0; r < done && bias; r++)
            for (int i = 0; i < TILE; i++) out[r][t][i] += bias[tiles[t].index * TILE + i];
    }
}

// SiLU(x gate^T) * (x up^T), rounded for the product that follows. Its width is a multiple of 32. room: for four tiles.
static void gated(Worker me, const Int4Linear *gate, const Int4Linear *up, const Rounded *x, int64_t rows,
                  const Rounded *to, void *room, Foresight *next) {
    float g[PACK][2][TILE], u[PACK][2][TILE];
    int64_t blocks = gate->outputs / BLOCK, b, end = share(me, blocks, &b);
    for (; b < end; b++) {
        Tile tiles[4];
        for (int t = 0; t < 4; t++) {
            char *own = (char *)room + t * tile_bytes(gate->inputs);
            tiles[t] = tile_at(t < 2 ? gate : up, 2 * b + t % 2, rows, 2, own);
        }
        for (int64_t row = 0, done; row < rows; row += done) {
            int64_t left = rows - row;
            done = 1;
            while (done * 2 <= left && done * 2 <= PACK) done *= 2;
            two_tiles(tiles, x, row, next, g);
            two_tiles(tiles + 2, x, row, next, u);
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
