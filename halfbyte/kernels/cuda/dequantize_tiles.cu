// 4-bit tiles (halfbyte/kernels/gpu/tiles.py) to a float16 matrix [N, K], for products of many tokens.
// A thread makes 8 neighbouring columns of two rows: words 2 h and 2 h + 1 of its lane. GROUP is set at compile time.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#define STEPS (GROUP == 128 ? 2 : 1)
#define GROUPS (GROUP == 32 ? 2 : 1)
#define UNIT_BYTES (512 * STEPS + 64 * GROUPS)

__device__ __forceinline__ u32 scaled(u32 word, u32 mask, u32 factor, u32 zero, u32 scale) {
    u32 r;
    asm("{ .reg .b32 t; lop3.b32 t, %1, %2, 0x64006400, 0xea; fma.rn.f16x2 t, t, %3, %4; mul.rn.f16x2 %0, t, %5; }"
        : "=r"(r) : "r"(word), "r"(mask), "r"(factor), "r"(zero), "r"(scale));
    return r;
}

extern "C" __global__ void __launch_bounds__(256) dequantize_tiles(const char* __restrict__ weight, u16* __restrict__ out,
                                                                   int N, int K) {
    const int threads_of_row = K / 32 * 4;  // of a tile: a thread for each 8 columns and g
    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    const int all_tiles = (N + 15) / 16;
    if (i >= (u64)all_tiles * threads_of_row * 8) return;
    const int tile = (int)(i / (threads_of_row * 8)), rest = (int)(i % (threads_of_row * 8));
    const int g = rest / threads_of_row, column = rest % threads_of_row * 8;
    const int step = column / 64, h = column % 64 / 32, t = column % 32 / 8, unit = step / STEPS;
    const char* base = weight + ((u64)tile * (K / 64 / STEPS) + unit) * UNIT_BYTES;
    const uint2 words = __ldg((const uint2*)(base + 512 * (step % STEPS) + 16 * (4 * g + t) + 8 * h));
    const uint2 meta = __ldg((const uint2*)(base + 512 * STEPS + 64 * (GROUP == 32 ? h : 0)) + g);
    const u32 zero = __byte_perm(meta.x, 0, 0x3232), scale = __byte_perm(meta.x, 0, 0x1010);
    const u32 zero_lower = __byte_perm(meta.y, 0, 0x3232), scale_lower = __byte_perm(meta.y, 0, 0x1010);
    const u32 one = 0x3c003c00, sixteenth = 0x2c002c00;
    uint4 upper, lower;
    upper.x = scaled(words.x, 0x000f000f, one, zero, scale);
    upper.y = scaled(words.x >> 8, 0x000f000f, one, zero, scale);
    upper.z = scaled(words.y, 0x000f000f, one, zero, scale);
    upper.w = scaled(words.y >> 8, 0x000f000f, one, zero, scale);
    lower.x = scaled(words.x, 0x00f000f0, sixteenth, zero_lower, scale_lower);
    lower.y = scaled(words.x >> 8, 0x00f000f0, sixteenth, zero_lower, scale_lower);
    lower.z = scaled(words.y, 0x00f000f0, sixteenth, zero_lower, scale_lower);
    lower.w = scaled(words.y >> 8, 0x00f000f0, sixteenth, zero_lower, scale_lower);
    const int row = tile * 16 + g;
    if (row < N) *(uint4*)(out + (u64)row * K + column) = upper;
    if (row + 8 < N) *(uint4*)(out + (u64)(row + 8) * K + column) = lower;
}
