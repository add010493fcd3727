// AVX-512 with VNNI: one instruction multiplies 64 weights and adds up fours.
#pragma once
#include <immintrin.h>

#define SLICE 16
typedef __m512 Floats;
typedef __m512i Words;  // 32-bit integers

INLINE Floats no_floats(void) { return _mm512_setzero_ps(); }
INLINE Floats repeat(float x) { return _mm512_set1_ps(x); }
INLINE Floats to_floats(Words x) { return _mm512_cvtepi32_ps(x); }
INLINE Floats scaled(Floats x, Floats scale) { return _mm512_mul_ps(x, scale); }
INLINE Floats add_scaled(Floats total, Floats x, Floats scale) { return _mm512_fmadd_ps(x, scale, total); }
INLINE void store_floats(float *p, Floats x) { _mm512_storeu_ps(p, x); }
INLINE Floats load_floats(const float *p) { return _mm512_loadu_ps(p); }
INLINE Floats load_halves(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE Words load_zeros(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)); }

INLINE __m512i four_inputs(const int8_t *x) {
    int32_t word;
    memcpy(&word, x, 4);
    return _mm512_set1_epi32(word);
}

// From `first` on, the sum of w x over a block; in two halves, since each step must wait for the one before.
INLINE Words dot(Words first, const __m512i *w, const int8_t *x) {
    __m512i odd = _mm512_setzero_si512();
    UNROLL for (int v = 0; v < 8; v += 2) {
        first = _mm512_dpbusd_epi32(first, w[v], four_inputs(x + 4 * v));
        odd = _mm512_dpbusd_epi32(odd, w[v + 1], four_inputs(x + 4 * v + 4));
    }
    return _mm512_add_epi32(first, odd);
}

// sums[r] = sum of q x - zero * sum of x. A zero point in its 32-bit lane is also the pair (zero, 0) of 16 bits.
INLINE void dot_nibbles(const int rows, const uint8_t *q, const uint8_t *zeros, const Rounded32 *x, Floats (*sums)[1]) {
    const __m512i low = _mm512_set1_epi8(15), zero = load_zeros(zeros);
    __m512i w[8];
    UNROLL for (int v = 0; v < 4; v++) {
        __m512i both = _mm512_loadu_si512(q + 64 * v);
        w[2 * v] = _mm512_and_si512(both, low);
        w[2 * v + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    UNROLL for (int r = 0; r < rows; r++)
        sums[r][0] = to_floats(dot(_mm512_madd_epi16(zero, _mm512_set1_epi32(x[r].minus_sum)), w, x[r].q));
}

// sums[r] = sum of (q - MIDDLE) x
INLINE void dot_bytes(const int rows, const uint8_t *q, const Rounded32 *x, Floats (*sums)[1]) {
    __m512i w[8];
    UNROLL for (int v = 0; v < 8; v++) w[v] = _mm512_loadu_si512(q + 64 * v);
    UNROLL for (int r = 0; r < rows; r++)
        sums[r][0] = to_floats(dot(_mm512_set1_epi32(x[r].minus_sum * MIDDLE), w, x[r].q));
}
