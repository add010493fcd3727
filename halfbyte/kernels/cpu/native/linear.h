// From tiles to whole products: as many rows at once as there are, in powers of two.
#pragma once
#include "int8.h"
#include "pool.h"

#define SOME_ROWS(name, kernel, Weight)                                                                             \
    /* Computes 1, 2, 4 or 8 of the `left` rows from `row` on; returns how many. */                                 \
    static int name(const Weight *w, int64_t tile, const Rounded *x, int64_t row, int64_t left, float (*y)[TILE]) { \
        if (PACK >= 8 && left >= 8) { kernel(8 <= PACK ? 8 : 1, w, tile, x, row, y); return 8; }    \
        if (PACK >= 4 && left >= 4) { kernel(4 <= PACK ? 4 : 1, w, tile, x, row, y); return 4; }    \
        if (PACK >= 2 && left >= 2) { kernel(2, w, tile, x, row, y); return 2; }                            \
        kernel(1, w, tile, x, row, y);                                                                              \
        return 1;                                                                                                   \
    }
SOME_ROWS(int4_some, int4_rows, Int4Linear)
SOME_ROWS(int8_some, int8_rows, Int8Linear)
#undef SOME_ROWS

INLINE int64_t width_of_tile(int64_t outputs, int64_t tile) {
    int64_t left = outputs - tile * TILE;
    return left < TILE ? left : TILE;
}

// y [rows, outputs] = (or, adding, +=) x W^T + bias, this worker's tiles of it.
static void int4_linear(Worker me, const Int4Linear *w, const Rounded *x, int64_t rows, float *y, int adding) {
    float out[PACK][TILE];
    int64_t tile, end = share(me, tiles_of(w->outputs), &tile);
    for (; tile < end; tile++) {
        int64_t width = width_of_tile(w->outputs, tile);
        const float *bias = w->bias ? w->bias + tile * TILE : 0;
        for (int64_t row = 0, done; row < rows; row += done) {
            done = int4_some(w, tile, x, row, rows - row, out);
            for (int64_t r = 0; r < done; r++) {
                float *to = y + (row + r) * w->outputs + tile * TILE;
                for (int64_t i = 0; i < width; i++) {
                    float value = bias ? out[r][i] + bias[i] : out[r][i];
                    to[i] = adding ? to[i] + value : value;
                }
            }
        }
    }
}

static void int8_linear(Worker me, const Int8Linear *w, const Rounded *x, int64_t rows, float *y) {
    float out[PACK][TILE];
    int64_t tile, end = share(me, tiles_of(w->outputs), &tile);
    for (; tile < end; tile++)
        for (int64_t row = 0, done; row < rows; row += done) {
            done = int8_some(w, tile, x, row, rows - row, out);
            for (int64_t r = 0; r < done; r++)
                memcpy(y + (row + r) * w->outputs + tile * TILE, out[r], 4 * width_of_tile(w->outputs, tile));
        }
}

// Two tiles of a product: 32 neighbouring outputs, with bias.
INLINE void two_tiles(
    const Int4Linear *w, int64_t pair, const Rounded *x, int64_t row, int64_t left, float (*out)[2][TILE]
) {
    float one[PACK][TILE];
    for (int t = 0; t < 2; t++) {
        int done = int4_some(w, 2 * pair + t, x, row, left, one);
        const float *bias = w->bias ? w->bias + (2 * pair + t) * TILE : 0;
        for (int r = 0; r < done; r++)
            for (int i = 0; i < TILE; i++) out[r][t][i] = bias ? one[r][i] + bias[i] : one[r][i];
    }
}

// SiLU(x gate^T) * (x up^T), rounded for the product that follows. Its width is a multiple of 32.
static void gated(Worker me, const Int4Linear *gate, const Int4Linear *up, const Rounded *x, int64_t rows,
                  const Rounded *to) {
    float g[PACK][2][TILE], u[PACK][2][TILE];
    int64_t blocks = gate->outputs / BLOCK, b, end = share(me, blocks, &b);
    for (; b < end; b++)
        for (int64_t row = 0, done; row < rows; row += done) {
            int64_t left = rows - row;
            done = 1;
            while (done * 2 <= left && done * 2 <= PACK) done *= 2;
            two_tiles(gate, b, x, row, left, g);
            two_tiles(up, b, x, row, left, u);
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
