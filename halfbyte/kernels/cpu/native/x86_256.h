// AVX2, with the 256-bit form of VNNI where there is one.
#pragma once
#include <immintrin.h>

#define SLICE 8
typedef __m256 Floats;
typedef __m256i Words;  // 32-bit integers

#if defined(__AVXVNNI__)
#define DPBUSD _mm256_dpbusd_avx_epi32
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define DPBUSD _mm256_dpbusd_epi32
#endif

INLINE Floats no_floats(void) { return _mm256_setzero_ps(); }
INLINE Floats repeat(float x) { return _mm256_set1_ps(x); }
INLINE Floats to_floats(Words x) { return _mm256_cvtepi32_ps(x); }
INLINE Floats scaled(Floats x, Floats scale) { return _mm256_mul_ps(x, scale); }
INLINE Floats add_scaled(Floats total, Floats x, Floats scale) { return _mm256_fmadd_ps(x, scale, total); }
INLINE void store_floats(float *p, Floats x) { _mm256_storeu_ps(p, x); }
INLINE Floats load_floats(const float *p) { return _mm256_loadu_ps(p); }
INLINE Floats load_halves(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INLINE Words load_zeros(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)); }
INLINE Words load_words(const void *p) { return _mm256_loadu_si256(p); }
INLINE void store_words(void *p, Words x) { _mm256_storeu_si256(p, x); }

INLINE __m256i four_inputs(const int8_t *x) {
    int32_t word;
    memcpy(&word, x, 4);
    return _mm256_set1_epi32(word);
}

INLINE __m256i low_nibbles(const uint8_t *q) { return _mm256_and_si256(load_words(q), _mm256_set1_epi8(15)); }
INLINE __m256i high_nibbles(const uint8_t *q) {
    return _mm256_and_si256(_mm256_srli_epi16(load_words(q), 4), _mm256_set1_epi8(15));
}

#ifdef DPBUSD
// sums[r] = sum of q x - zero * sum of x. A zero point in its 32-bit lane is also the pair (zero, 0) of 16 bits.
INLINE void dot_nibbles(const int rows, const uint8_t *q, const uint8_t *zeros, const Rounded32 *x, Floats (*sums)[2]) {
    Words total[PACK][2];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < 2; s++)
        total[r][s] = _mm256_madd_epi16(load_zeros(zeros + s * SLICE), _mm256_set1_epi32(x[r].minus_sum));
    UNROLL for (int v = 0; v < 8; v++) {
        const uint8_t *at = q + v / 2 * 64;
        __m256i w0 = v % 2 ? high_nibbles(at) : low_nibbles(at);
        __m256i w1 = v % 2 ? high_nibbles(at + 32) : low_nibbles(at + 32);
        UNROLL for (int r = 0; r < rows; r++) {
            __m256i in = four_inputs(x[r].q + 4 * v);
            total[r][0] = DPBUSD(total[r][0], w0, in);
            total[r][1] = DPBUSD(total[r][1], w1, in);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < 2; s++) sums[r][s] = to_floats(total[r][s]);
}

// sums[r] = sum of (q - MIDDLE) x
INLINE void dot_bytes(const int rows, const uint8_t *q, const Rounded32 *x, Floats (*sums)[2]) {
    Words total[PACK][2];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < 2; s++)
        total[r][s] = _mm256_set1_epi32(x[r].minus_sum * MIDDLE);
    UNROLL for (int v = 0; v < 8; v++) {
        __m256i w0 = load_words(q + 64 * v), w1 = load_words(q + 64 * v + 32);
        UNROLL for (int r = 0; r < rows; r++) {
            __m256i in = four_inputs(x[r].q + 4 * v);
            total[r][0] = DPBUSD(total[r][0], w0, in);
            total[r][1] = DPBUSD(total[r][1], w1, in);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < 2; s++) sums[r][s] = to_floats(total[r][s]);
}
#else
// Keeps the compiler from summing up later and keeping the terms until then, for which there are no registers.
#define NOW(x) __asm__("" : "+x"(x))

// Adds the products of a vector of weights and its four inputs of each row. Pairs of products are summed in 16 bits, where
// eight pairs of a nibble (0 to 15) and an activation (-127 to 127) fit: 8 * 2 * 15 * 127 = 30480.
INLINE void add_products(const int rows, int v, __m256i w0, __m256i w1, const Rounded32 *x, Words (*sums)[2]) {
    UNROLL for (int r = 0; r < rows; r++) {
        __m256i in = four_inputs(x[r].q + 4 * v);
        __m256i p0 = _mm256_maddubs_epi16(w0, in), p1 = _mm256_maddubs_epi16(w1, in);
        sums[r][0] = v ? _mm256_add_epi16(sums[r][0], p0) : p0;
        sums[r][1] = v ? _mm256_add_epi16(sums[r][1], p1) : p1;
        NOW(sums[r][0]);
        NOW(sums[r][1]);
    }
}

// So a block is widened to 32 bits once, and goes on in floats, which hold what is below 2^24 exactly: its sum, the zero
// point times the sum of x, and their difference.
INLINE void without_zeros(const int rows, Words (*sixteen)[2], Floats zero0, Floats zero1, const Rounded32 *x, Floats (*sums)[2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    UNROLL for (int r = 0; r < rows; r++) {
        Floats minus_sum = repeat(x[r].minus_sum);
        sums[r][0] = add_scaled(to_floats(_mm256_madd_epi16(sixteen[r][0], ones)), zero0, minus_sum);
        sums[r][1] = add_scaled(to_floats(_mm256_madd_epi16(sixteen[r][1], ones)), zero1, minus_sum);
    }
}

// sums[r] = sum of q x - zero * sum of x
INLINE void dot_nibbles(const int rows, const uint8_t *q, const uint8_t *zeros, const Rounded32 *x, Floats (*sums)[2]) {
    Words sixteen[PACK][2];
    UNROLL for (int v = 0; v < 8; v += 2) {
        const uint8_t *at = q + v * 32;
        add_products(rows, v, low_nibbles(at), low_nibbles(at + 32), x, sixteen);
        add_products(rows, v + 1, high_nibbles(at), high_nibbles(at + 32), x, sixteen);
    }
    without_zeros(rows, sixteen, to_floats(load_zeros(zeros)), to_floats(load_zeros(zeros + SLICE)), x, sums);
}

// The same, and keeps what was taken apart: a byte a weight, and zeros as floats.
INLINE void dot_and_keep(const int rows, const uint8_t *q, const uint8_t *zeros, const Rounded32 *x, Floats (*sums)[2],
                         uint8_t *bytes, float *float_zeros) {
    Words sixteen[PACK][2];
    UNROLL for (int v = 0; v < 8; v++) {
        const uint8_t *at = q + v / 2 * 64;
        Words w0 = v % 2 ? high_nibbles(at) : low_nibbles(at);
        Words w1 = v % 2 ? high_nibbles(at + 32) : low_nibbles(at + 32);
        store_words(bytes + 64 * v, w0);
        store_words(bytes + 64 * v + 32, w1);
        add_products(rows, v, w0, w1, x, sixteen);
    }
    Floats zero0 = to_floats(load_zeros(zeros)), zero1 = to_floats(load_zeros(zeros + SLICE));
    store_floats(float_zeros, zero0);
    store_floats(float_zeros + SLICE, zero1);
    without_zeros(rows, sixteen, zero0, zero1, x, sums);
}

// The same with a byte a weight, and zeros that are floats.
INLINE void dot_unpacked(const int rows, const uint8_t *q, const float *zeros, const Rounded32 *x, Floats (*sums)[2]) {
    Words sixteen[PACK][2];
    UNROLL for (int v = 0; v < 8; v++)
        add_products(rows, v, load_words(q + 64 * v), load_words(q + 64 * v + 32), x, sixteen);
    without_zeros(rows, sixteen, load_floats(zeros), load_floats(zeros + SLICE), x, sums);
}

// sums[r] = sum of (q - MIDDLE) x. One pair fits 16 bits (2 * 127 * 127), two do not.
INLINE void dot_bytes(const int rows, const uint8_t *q, const Rounded32 *x, Floats (*sums)[2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    Words total[PACK][2];
    UNROLL for (int v = 0; v < 8; v++) {
        __m256i w[2] = {load_words(q + 64 * v), load_words(q + 64 * v + 32)};
        UNROLL for (int r = 0; r < rows; r++) {
            __m256i in = four_inputs(x[r].q + 4 * v);
            UNROLL for (int s = 0; s < 2; s++) {
                __m256i wide = _mm256_madd_epi16(_mm256_maddubs_epi16(w[s], in), ones);
                total[r][s] = v ? _mm256_add_epi32(total[r][s], wide) : wide;
                NOW(total[r][s]);
            }
        }
    }
    const Floats middle = repeat(MIDDLE);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int s = 0; s < 2; s++)
        sums[r][s] = add_scaled(to_floats(total[r][s]), repeat(x[r].minus_sum), middle);
}
#endif
