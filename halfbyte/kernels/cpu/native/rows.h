// What happens to one row by itself: norms and the rounding of activations.
#pragma once
#include "lanes.h"

#define BLOCK 32  // inputs that share one activation scale
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define PACK 8  // rows that a product works on at once
#else
#define PACK 4
#endif

// AVX2 by itself sums products in 16 bits and goes on in floats (x86_256.h).
#if defined(__AVX2__) && !defined(__AVXVNNI__) && !(defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define UNPACKS 1  // see unpacked.h
typedef float Sum;
#else
#define UNPACKS 0
typedef int32_t Sum;
#endif

// Thirty-two values rounded to 8 bits: value = q * scale.
typedef struct {
    int8_t q[BLOCK];
    float scale;
    Sum minus_sum;  // of q, for the zero points
} Rounded32;

// Rows of such blocks, PACK rows side by side: block b of row r is at [r / PACK, b, r % PACK], so that whoever works on
// a pack of rows finds its next blocks all in one place.
typedef struct {
    Rounded32 *blocks;
    int64_t inputs;
} Rounded;

INLINE Rounded32 *block_of(const Rounded *x, int64_t row, int64_t b) {
    return x->blocks + (row / PACK * (x->inputs / BLOCK) + b) * PACK + row % PACK;
}

// To integers from -most to most. A value that is not finite makes the scale so, and with it whatever is computed from the block: magnitudes are
// compared as integers, where NaN is the largest.
INLINE void round_within(const float *x, float most, Rounded32 *to) {
    ilanes largest = {}, total = {};
    UNROLL for (int i = 0; i < BLOCK / WIDTH; i++) {
        ivec magnitude = (ivec)load(x + i * WIDTH) & 0x7fffffff;
        largest.part[i % PARTS] = imax(largest.part[i % PARTS], magnitude);
    }
    int32_t bits = imax_of_lanes(&largest), whole[BLOCK];
    float top;
    memcpy(&top, &bits, 4);
    float scale = top / most, inverse = top > 1e-35f ? most / top : 0.0f;  // of a block that small nothing is left
    UNROLL for (int i = 0; i < BLOCK / WIDTH; i++) {
        ivec n;
        nearest(load(x + i * WIDTH) * inverse, &n);
        memcpy(whole + i * WIDTH, &n, sizeof n);
        total.part[i % PARTS] += n;
    }
    for (int i = 0; i < BLOCK; i++) to->q[i] = (int8_t)whole[i];
    to->scale = scale;
    to->minus_sum = (Sum)-isum_of_lanes(&total);
}

INLINE void round_block(const float *x, Rounded32 *to) { round_within(x, 127.0f, to); }

INLINE void round_row(const float *x, const Rounded *to, int64_t row) {
    for (int64_t b = 0; b < to->inputs / BLOCK; b++) round_block(x + b * BLOCK, block_of(to, row, b));
}

// x / sqrt(mean(x^2) + eps) * weight. The width is a multiple of 16.
INLINE void rms_norm(const float *x, const float *weight, int64_t width, float eps, float *y) {
    lanes squares = {};
    for (int64_t i = 0; i < width; i += LANES)
        UNROLL for (int p = 0; p < PARTS; p++) {
            vec v = load(x + i + p * WIDTH);
            squares.part[p] += v * v;
        }
    float factor = 1.0f / sqrtf(sum_of_lanes(&squares) / (float)width + eps);
    for (int64_t i = 0; i < width; i += WIDTH) store(y + i, load(x + i) * factor * load(weight + i));
}

// Rotary embedding of one head in place, d a multiple of 32: coordinate i turns with coordinate i + d/2; the sine's sign is in `sin`.
INLINE void rotate(float *x, const float *cosine, const float *sine, int64_t d) {
    int64_t half = d / 2;
    for (int64_t i = 0; i < half; i += WIDTH) {
        vec a = load(x + i), b = load(x + i + half);
        store(x + i, a * load(cosine + i) + b * load(sine + i));
        store(x + i + half, b * load(cosine + i + half) + a * load(sine + i + half));
    }
}
