// Any machine: plain C.
#pragma once

#define SLICE 16
typedef struct { float lane[SLICE]; } Floats;
typedef struct { int32_t lane[SLICE]; } Words;

INLINE Floats no_floats(void) { return (Floats){{0}}; }
INLINE Floats repeat(float x) {
    Floats y;
    for (int i = 0; i < SLICE; i++) y.lane[i] = x;
    return y;
}
INLINE Floats to_floats(Words x) {
    Floats y;
    for (int i = 0; i < SLICE; i++) y.lane[i] = (float)x.lane[i];
    return y;
}
INLINE Floats scaled(Floats x, Floats scale) {
    for (int i = 0; i < SLICE; i++) x.lane[i] *= scale.lane[i];
    return x;
}
INLINE Floats add_scaled(Floats total, Floats x, Floats scale) {
    for (int i = 0; i < SLICE; i++) total.lane[i] += x.lane[i] * scale.lane[i];
    return total;
}
INLINE void store_floats(float *p, Floats x) { memcpy(p, x.lane, sizeof x.lane); }
INLINE Floats load_floats(const float *p) {
    Floats y;
    memcpy(y.lane, p, sizeof y.lane);
    return y;
}
INLINE Floats load_halves(const uint16_t *p) {
    Floats y;
    for (int i = 0; i < SLICE; i++) y.lane[i] = half_to_float(p[i]);
    return y;
}

INLINE void dot(const int8_t *w, const Rounded32 *x, Words *sum) {  // w: [8, 16, 4], inputs in fours
    for (int i = 0; i < SLICE; i++) {
        int32_t total = 0;
        for (int v = 0; v < 8; v++)
            for (int j = 0; j < 4; j++) total += w[64 * v + 4 * i + j] * x->q[4 * v + j];
        sum->lane[i] = total;
    }
}

// sums[r] = sum of q x - zero * sum of x
INLINE void dot_nibbles(const int rows, const uint8_t *q, const uint8_t *zeros, const Rounded32 *x, Floats (*sums)[1]) {
    int8_t w[512];
    for (int v = 0; v < 4; v++)
        for (int i = 0; i < 64; i++) {
            w[128 * v + i] = (int8_t)(q[64 * v + i] & 15);
            w[128 * v + 64 + i] = (int8_t)(q[64 * v + i] >> 4);
        }
    for (int r = 0; r < rows; r++) {
        Words total;
        dot(w, x + r, &total);
        for (int i = 0; i < SLICE; i++) total.lane[i] += zeros[i] * x[r].minus_sum;
        sums[r][0] = to_floats(total);
    }
}

// sums[r] = sum of (q - MIDDLE) x
INLINE void dot_bytes(const int rows, const uint8_t *q, const Rounded32 *x, Floats (*sums)[1]) {
    for (int r = 0; r < rows; r++) {
        Words total;
        dot((const int8_t *)q, x + r, &total);
        for (int i = 0; i < SLICE; i++) total.lane[i] += MIDDLE * x[r].minus_sum;
        sums[r][0] = to_floats(total);
    }
}
