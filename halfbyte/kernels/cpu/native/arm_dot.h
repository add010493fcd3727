// NEON with the dot product instructions of ARMv8.2: four lanes of four products each.
#pragma once
#include <arm_neon.h>

#define SLICE 4
typedef float32x4_t Floats;
typedef int32x4_t Words;

INLINE Floats no_floats(void) { return vdupq_n_f32(0); }
INLINE Floats repeat(float x) { return vdupq_n_f32(x); }
INLINE Floats to_floats(Words x) { return vcvtq_f32_s32(x); }
INLINE Floats scaled(Floats x, Floats scale) { return vmulq_f32(x, scale); }
INLINE Floats add_scaled(Floats total, Floats x, Floats scale) { return vfmaq_f32(total, x, scale); }
INLINE void store_floats(float *p, Floats x) { vst1q_f32(p, x); }
INLINE Floats load_floats(const float *p) { return vld1q_f32(p); }
INLINE Floats load_halves(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE Words load_zeros(const uint8_t *p) {
    int32_t z[4] = {p[0], p[1], p[2], p[3]};
    return vld1q_s32(z);
}

// The four products of each lane with inputs 4v to 4v + 3: a lane of x is named by a constant, hence the cases.
INLINE Words four(Words sum, int8x16_t w, int8x16_t first, int8x16_t second, const int v) {
    switch (v) {
        case 0: return vdotq_laneq_s32(sum, w, first, 0);
        case 1: return vdotq_laneq_s32(sum, w, first, 1);
        case 2: return vdotq_laneq_s32(sum, w, first, 2);
        case 3: return vdotq_laneq_s32(sum, w, first, 3);
        case 4: return vdotq_laneq_s32(sum, w, second, 0);
        case 5: return vdotq_laneq_s32(sum, w, second, 1);
        case 6: return vdotq_laneq_s32(sum, w, second, 2);
        default: return vdotq_laneq_s32(sum, w, second, 3);
    }
}

// sums[r] = sum of q x - zero * sum of x
INLINE void dot_nibbles(const int rows, const uint8_t *q, const uint8_t *zeros, const Rounded32 *x, Floats (*sums)[4]) {
    UNROLL for (int s = 0; s < 4; s++) {
        Words zero = load_zeros(zeros + s * SLICE), total[PACK];
        UNROLL for (int r = 0; r < rows; r++) total[r] = vmulq_n_s32(zero, x[r].minus_sum);
        UNROLL for (int v = 0; v < 8; v++) {
            uint8x16_t both = vld1q_u8(q + v / 2 * 64 + s * 16);
            int8x16_t w = vreinterpretq_s8_u8(v % 2 ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15)));
            UNROLL for (int r = 0; r < rows; r++)
                total[r] = four(total[r], w, vld1q_s8(x[r].q), vld1q_s8(x[r].q + 16), v);
        }
        UNROLL for (int r = 0; r < rows; r++) sums[r][s] = to_floats(total[r]);
    }
}

// sums[r] = sum of (q - MIDDLE) x
INLINE void dot_bytes(const int rows, const uint8_t *q, const Rounded32 *x, Floats (*sums)[4]) {
    UNROLL for (int s = 0; s < 4; s++) {
        Words total[PACK];
        UNROLL for (int r = 0; r < rows; r++) total[r] = vdupq_n_s32(x[r].minus_sum * MIDDLE);
        UNROLL for (int v = 0; v < 8; v++) {
            int8x16_t w = vld1q_s8((const int8_t *)q + 64 * v + s * 16);
            UNROLL for (int r = 0; r < rows; r++)
                total[r] = four(total[r], w, vld1q_s8(x[r].q), vld1q_s8(x[r].q + 16), v);
        }
        UNROLL for (int r = 0; r < rows; r++) sums[r][s] = to_floats(total[r]);
    }
}
