// Attention of sequences with one new token each, over paged keys and values (reference.paged_attention).
//
// A block takes one sequence, one key-value head with the GROUP query heads that share it, and a piece of LENGTH tokens
// of the context: scores of all of them, their softmax, their values. Compiled at run time with these set:
//   D       width of a head, a multiple of 32         GROUP   query heads of a key-value head
//   BLOCK   tokens of a page                          FP8     1: keys and values are e4m3, 0: float16
//   LENGTH  tokens of a piece                         SPLIT   1: there may be several pieces: float32 results, each for
//   AHEAD   loads in flight; nothing else depends on it
//   TILED   1: columns go in the tiles' order (wide_linear.cu)           itself, and the logarithm of what it weighs
//
// 16 bytes of a token are a lane's; sums are float32, in an order that follows from the sequence alone. What lies behind a
// sequence's tokens is not read.

#if __CUDA_ARCH__ >= 900
#define LET_NEXT_BEGIN asm volatile("griddepcontrol.launch_dependents;")
#define WAIT_FOR_LAST asm volatile("griddepcontrol.wait;" ::: "memory")
#else
#define LET_NEXT_BEGIN
#define WAIT_FOR_LAST
#endif

#define WARPS 8
#define EACH (FP8 ? 16 : 8)           // numbers of a lane
#define LANES (D / EACH)              // that share a token
#define TOKENS (32 / LANES)           // of a warp at once
#define STRIDE (WARPS * TOKENS)       // of the block

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

extern "C" __global__ void __launch_bounds__(32 * WARPS) paged_decode(
    const u16* q, const char* k_cache, const char* v_cache, void* out, float* weights, const int* tables,
    const int* context_lens, int kv_heads, int table_width, int pieces, int rows, int window, float scale) {
    __shared__ float scores[GROUP][LENGTH];
    __shared__ float results[WARPS][GROUP][D];
    LET_NEXT_BEGIN;
    const int piece = blockIdx.x % pieces, kv_head = blockIdx.x / pieces % kv_heads, s = blockIdx.x / pieces / kv_heads;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, part = lane % LANES;
    WAIT_FOR_LAST;
    const int context = context_lens[s];
    int first = piece * LENGTH;
    const int end = min(context, first + LENGTH);
    if (window > 0) first = max(first, context - window);
    const int* table = tables + (u64)s * table_width;
    const int heads = kv_heads * GROUP, row = s * heads + kv_head * GROUP;

    auto place = [&](int token) {  // bytes of a token's part in the cache
        const u64 at = ((u64)table[token / BLOCK] * kv_heads + kv_head) * BLOCK + token % BLOCK;
        return (at * D + part * EACH) * (FP8 ? 1 : 2);
    };
    const int mine = first + warp * TOKENS + lane / LANES;

    float x[GROUP][EACH];
#pragma unroll
    for (int g = 0; g < GROUP; ++g)
#pragma unroll
        for (int i = 0; i < EACH; i += 2) {
            const float2 v = widened(__ldcg((const u32*)(q + (u64)(row + g) * D + part * EACH + i)));
            x[g][i] = v.x, x[g][i + 1] = v.y;
        }
    for (int begin = mine; begin - lane / LANES < end; begin += AHEAD * STRIDE) {
        uint4 raw[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a)
            raw[a] = begin + a * STRIDE < end ? __ldcg((const uint4*)(k_cache + place(begin + a * STRIDE))) : uint4{};
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            float k[EACH];
            widen(raw[a], k);
#pragma unroll
            for (int g = 0; g < GROUP; ++g) {
                float sum = 0.f;
#pragma unroll
                for (int i = 0; i < EACH; ++i) sum += k[i] * x[g][i];
#pragma unroll
                for (int o = LANES / 2; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
                if (part == 0 && begin + a * STRIDE < end) scores[g][begin + a * STRIDE - piece * LENGTH] = sum * scale;
            }
        }
    }
    __syncthreads();

    float best[GROUP], mass[GROUP];
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
        best[g] = -1e30f, mass[g] = 0.f;
        for (int j = first + lane; j < end; j += 32) {
            const float y = scores[g][j - piece * LENGTH];
            best[g] = y != y ? y : fmaxf(best[g], y);  // a score that is no number is not to be lost
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            const float other = __shfl_xor_sync(~0u, best[g], o);
            best[g] = other != other ? other : best[g] != best[g] ? best[g] : fmaxf(best[g], other);
        }
        for (int j = first + lane; j < end; j += 32) mass[g] += __expf(scores[g][j - piece * LENGTH] - best[g]);
#pragma unroll
        for (int o = 16; o; o >>= 1) mass[g] += __shfl_xor_sync(~0u, mass[g], o);
    }

    float sums[GROUP][EACH] = {};
    for (int begin = mine; begin - lane / LANES < end; begin += AHEAD * STRIDE) {
        uint4 raw[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a)
            raw[a] = begin + a * STRIDE < end ? __ldcg((const uint4*)(v_cache + place(begin + a * STRIDE))) : uint4{};
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            if (begin + a * STRIDE >= end) continue;
            float v[EACH];
            widen(raw[a], v);
#pragma unroll
            for (int g = 0; g < GROUP; ++g) {
                const float p = __expf(scores[g][begin + a * STRIDE - piece * LENGTH] - best[g]);
#pragma unroll
                for (int i = 0; i < EACH; ++i) sums[g][i] += p * v[i];
            }
        }
    }
#pragma unroll
    for (int g = 0; g < GROUP; ++g)
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
#pragma unroll
            for (int o = LANES; o < 32; o <<= 1) sums[g][i] += __shfl_xor_sync(~0u, sums[g][i], o);
            if (lane < LANES) results[warp][g][part * EACH + i] = sums[g][i];
        }
    __syncthreads();
#pragma unroll
    for (int g = 0; g < GROUP; ++g)
        for (int c = threadIdx.x; c < D; c += 32 * WARPS) {
            float y = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; ++w) y += results[w][g][c];
            y = mass[g] != 0.f ? y / mass[g] : 0.f;
#if SPLIT
            ((float*)out)[((u64)piece * rows + row + g) * D + c] = y;
            if (c == 0)
                weights[(u64)piece * rows + row + g] = mass[g] != 0.f ? best[g] + __logf(mass[g]) : __int_as_float(0xff800000);
#else
            const int to = TILED ? (c & ~31) + (c >> 1 & 3) * 8 + (c >> 4 & 1) * 4 + (c >> 3 & 1) * 2 + (c & 1) : c;
            ((u16*)out)[(u64)(row + g) * D + to] = to_half(y);
#endif
        }
}
