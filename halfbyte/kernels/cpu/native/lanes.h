// Sixteen float lanes, as many machine vectors as that takes. The compiler's vector extension, no intrinsics: the same
// source serves every instruction set, and every lane's arithmetic has one order, whatever the machine.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 16  // floats a machine vector
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define LANES 16
#define PARTS (LANES / WIDTH)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH)));
typedef struct { vec part[PARTS]; } lanes;
typedef struct { ivec part[PARTS]; } ilanes;

INLINE vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec all(float x) { return x - (vec){}; }
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }
INLINE vec vmax(vec a, vec b) { return choose(a > b, a, b); }
INLINE vec vmin(vec a, vec b) { return choose(a < b, a, b); }
INLINE ivec imax(ivec a, ivec b) {
    ivec more = a > b;
    return (more & a) | (~more & b);
}

// The nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 pushes the fraction out of the significand.
INLINE vec nearest(vec x, ivec *as_integer) {
    const vec magic = all(12582912.0f);
    vec shifted = x + magic;
    *as_integer = (ivec)shifted - (ivec)magic;
    return shifted - magic;
}

// e^x to about 1e-7 for x up to 88; 0 below -87. Cody and Waite's reduction.
INLINE vec vexp(vec x) {
    ivec n, some = x > -87.0f;
    x = vmin(vmax(x, all(-87.0f)), all(88.0f));
    vec whole = nearest(x * 1.44269504f, &n);
    vec r = x - whole * 0.693359375f;
    r = r - whole * -2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vec)(some & ((ivec)p + (n << 23)));
}

// Across sixteen lanes, by halves: four at a time, then the four.
typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec4 __attribute__((vector_size(16)));

INLINE ivec4 imax4(ivec4 a, ivec4 b) {
    ivec4 more = a > b;
    return (more & a) | (~more & b);
}

INLINE float sum_of_lanes(const lanes *x) {
    vec4 q[4];
    memcpy(q, x, sizeof q);
    vec4 s = (q[0] + q[2]) + (q[1] + q[3]);
    return (s[0] + s[2]) + (s[1] + s[3]);
}

INLINE int32_t isum_of_lanes(const ilanes *x) {
    ivec4 q[4];
    memcpy(q, x, sizeof q);
    ivec4 s = (q[0] + q[2]) + (q[1] + q[3]);
    return (s[0] + s[2]) + (s[1] + s[3]);
}

INLINE int32_t imax_of_lanes(const ilanes *x) {
    ivec4 q[4];
    memcpy(q, x, sizeof q);
    ivec4 a = imax4(imax4(q[0], q[2]), imax4(q[1], q[3]));
    int32_t b = a[0] > a[2] ? a[0] : a[2], c = a[1] > a[3] ? a[1] : a[3];
    return b > c ? b : c;
}

INLINE float max_of_lanes(const lanes *x) {
    vec4 q[4];
    memcpy(q, x, sizeof q);
    for (int i = 1; i < 4; i++) {
        ivec4 more = q[i] > q[0];
        q[0] = (vec4)((more & (ivec4)q[i]) | (~more & (ivec4)q[0]));
    }
    float b = q[0][0] > q[0][2] ? q[0][0] : q[0][2], c = q[0][1] > q[0][3] ? q[0][1] : q[0][3];
    return b > c ? b : c;
}

INLINE float exp_of(float x) {
    float y[WIDTH];
    store(y, vexp(all(x)));
    return y[0];
}

INLINE float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff, bits;
    float f;
    if (rest >= 0x7c00) bits = 0x7f800000 | (rest & 0x3ff) << 13;
    else if (rest >= 0x400) bits = (rest << 13) + 0x38000000;
    else {  // subnormal: an integer number of 2^-24
        f = (float)rest * 5.9604644775390625e-8f;
        memcpy(&bits, &f, 4);
    }
    bits |= sign;
    memcpy(&f, &bits, 4);
    return f;
}

INLINE uint16_t float_to_half(float f) {  // to nearest, ties to even; beyond 65504, infinity
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits >= 0x47800000) return sign | 0x7c00;
    if (bits < 0x38800000) {  // subnormal: adding 0.5 leaves the wanted bits at the end of the significand
        float x;
        memcpy(&x, &bits, 4);
        x += 0.5f;
        memcpy(&bits, &x, 4);
        return sign | (uint16_t)(bits - 0x3f000000);
    }
    return sign | (uint16_t)((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

#if defined(__AVX512F__)
INLINE vec load_half(const uint16_t *p) { return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE void store_half(uint16_t *p, vec x) { _mm256_storeu_si256((void *)p, _mm512_cvtps_ph((__m512)x, 0)); }
#elif defined(__F16C__)
INLINE vec load_half(const uint16_t *p) { return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INLINE void store_half(uint16_t *p, vec x) { _mm_storeu_si128((void *)p, _mm256_cvtps_ph((__m256)x, 0)); }
#elif defined(__aarch64__)
INLINE vec load_half(const uint16_t *p) { return (vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE void store_half(uint16_t *p, vec x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x))); }
#else
INLINE vec load_half(const uint16_t *p) {
    vec x;
    for (int i = 0; i < WIDTH; i++) x[i] = half_to_float(p[i]);
    return x;
}
INLINE void store_half(uint16_t *p, vec x) {
    for (int i = 0; i < WIDTH; i++) p[i] = float_to_half(x[i]);
}
#endif

INLINE vec within_half(vec x) {  // what float16 cannot hold becomes the largest that it can; NaN stays
    return choose(x > 65504.0f, all(65504.0f), choose(x < -65504.0f, all(-65504.0f), x));
}
