// Products with a byte a weight, for the output embedding: sixteen outputs a tile as in int4.h, a scale for each output
// and 32 inputs, symmetric. Vector v of a block holds inputs 4v to 4v + 3 of each output.
//
// Of a byte seven bits are used, 1 to 127 with 64 as zero: so it is signed or unsigned, as an instruction set likes it,
// and two products with activations are within 16 bits, which spares AVX2 without VNNI a third of the instructions.
#pragma once
#include "int4.h"

typedef struct {
    int64_t outputs, inputs;
    uint8_t *q;     // [tiles, inputs / 32, 8, 64]
    float *scales;  // [tiles, inputs / 32, 16]
} Int8Linear;

// y [rows, 16] = a tile's outputs of the rows whose first block is `from`, for `rows` <= PACK rows.
INLINE void int8_rows(const int rows, const Int8Linear *w, int64_t tile, const Rounded32 *from, Ahead ahead, float *y) {
    int64_t blocks = w->inputs / BLOCK;
    const uint8_t *q = w->q + tile * blocks * 512;
    const float *scales = w->scales + tile * blocks * TILE;
    Floats total[PACK][SLICES], sums[PACK][SLICES];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++) total[r][s] = no_floats();
    for (int64_t b = 0; b < blocks; b++) {
        const Rounded32 *in = from + b * PACK;
        fetch_lines(&ahead);
        dot_bytes(rows, q + b * 512, in, sums);
        UNROLL for (int s = 0; s < SLICES; s++) {
            Floats scale = load_floats(scales + b * TILE + s * SLICE);
            UNROLL for (int r = 0; r < rows; r++)
                total[r][s] = add_scaled(total[r][s], scaled(sums[r][s], repeat(in[r].scale)), scale);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < SLICES; s++)
        store_floats(y + r * TILE + s * SLICE, total[r][s]);
}
