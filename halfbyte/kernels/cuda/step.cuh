// What the kernels of a whole step share: whole_step.cu and paired_step.cu, at whose beginnings it is put behind ptx.cuh.
//
// Compiled at run time with these set, as far as it needs them:
//   HIDDEN, FFN, HEADS, KV_HEADS, D (width of a head)     the network's shape
//   GROUP    columns of a group of weights: 32, 64, 128
//   NORMS    1: heads of q and k are normed
//   FP8   1: keys and values are e4m3, 0: float16
//   PIECES   into which a sequence's context is cut for attention at most
//   LEAST    tokens of a piece
//
// Weights lie as halfbyte/kernels/gpu/tiles.py packs them; *tile*, *step* and *unit* are those of stream_linear.cu.

#define STEPS (GROUP == 128 ? 2 : 1)   // of a unit
#define GROUPS (GROUP == 32 ? 2 : 1)   // of a unit
#define UNIT_COLUMNS (64 * STEPS)
#define UNIT_BYTES (512 * STEPS + 64 * GROUPS)
enum { QKV, O, GATE_UP, DOWN };
// A layer's pointers, in the order in which step_network.py writes them.
enum { WEIGHTS = 0, BIASES = 4, NORM = 8, AFTER_NORM, KEYS, VALUES, Q_NORM, K_NORM, WINDOW, ENTRIES = 16 };

__host__ __device__ constexpr int columns_of(int p) { return p == O ? HEADS * D : p == DOWN ? FFN : HIDDEN; }
__host__ __device__ constexpr int rows_of(int p) { return p == QKV ? (HEADS + 2 * KV_HEADS) * D : p == GATE_UP ? 2 * FFN : HIDDEN; }
__host__ __device__ constexpr int tiles_of(int p) { return (rows_of(p) + 15) / 16; }
__host__ __device__ constexpr int units_of(int p) { return columns_of(p) / UNIT_COLUMNS; }
__host__ __device__ constexpr int most(int a, int b) { return a > b ? a : b; }

// Attention
#define SHARING (HEADS / KV_HEADS)
#define EACH (FP8 ? 16 : 8)  // numbers of a lane
#define LANES (D / EACH)     // that share a token
#define TOKENS (32 / LANES)  // of a warp at once

// Into how many pieces a context is cut, and how long they are: this follows from the context alone, so that a sequence's
// results do not depend on how many there are.
__device__ __forceinline__ int length_of_pieces(int context) { return max((context + PIECES - 1) / PIECES, LEAST); }

__device__ __forceinline__ void widened(const uint4& eight, float* x) {
    const u32 words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 a = widened(words[i]);
        x[2 * i] = a.x, x[2 * i + 1] = a.y;
    }
}

__device__ __forceinline__ void widen(const uint4& raw, float (&x)[EACH]) {
    const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#if FP8
        u32 low, high;
        from_e4m3(words[i], low, high);
        const float2 a = widened(low), b = widened(high);
        x[4 * i] = a.x, x[4 * i + 1] = a.y, x[4 * i + 2] = b.x, x[4 * i + 3] = b.y;
#else
        const float2 a = widened(words[i]);
        x[2 * i] = a.x, x[2 * i + 1] = a.y;
#endif
    }
}

// As the cache keeps them.
__device__ __forceinline__ uint4 narrowed(const float (&x)[EACH]) {
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#if FP8
        words[i] = to_e4m3(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
#else
        words[i] = to_half2(x[2 * i], x[2 * i + 1]);
#endif
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// A lane's part of a head, x and what lies half a head away: normed where there is a norm [D], and turned by cos and sin [D].
__device__ __forceinline__ void turn(float (&x)[EACH], float (&other)[EACH], int column, const float* norm, float eps, const float* cos, const float* sin) {
#if NORMS
    const int far = (column + D / 2) % D;
    float square = 0.f;
#pragma unroll
    for (int i = 0; i < EACH; ++i) square += x[i] * x[i];
#pragma unroll
    for (int o = LANES / 2; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
    const float r = 1.f / sqrtf(square / D + eps);
#pragma unroll
    for (int i = 0; i < EACH; ++i) x[i] *= r * __ldg(norm + column + i), other[i] *= r * __ldg(norm + far + i);
#endif
#pragma unroll
    for (int i = 0; i < EACH; ++i) x[i] = x[i] * cos[column + i] + other[i] * sin[column + i];
}
