// y = x W^T for few tokens: each weight goes once from memory through registers into the matrix units.
//
// x [T, K] with T <= 8 * NT; W [N, K] of 4 bits in groups, or of float16. Compiled at run time with these set:
//   GROUP   columns of a group of 4-bit weights: 32, 64 or 128; 0 if they are float16
//   NT      columns of 8 tokens
//   WARPS, DEPTH (units in flight a warp), BLOCKS (a multiprocessor's registers are shared out to that many)
//   NORM    1: x is a float32 stream, to be RMS-normed first; 0: x is float16
//   OUTPUT  0 float16   1 added to a float32 stream   2 SiLU(gate) * up, float16   3 float32
//
// A *tile* is 16 rows of W, a *step* 64 columns of it (four m16n8k16 products), a *unit* a step, or two if groups are of
// 128. A block owns whole tiles; its warps share the units of all of them out in one row, so that each warp reads one run
// of memory, and partial sums of a tile meet in shared memory in an order that depends on the shape alone. Rows of y come
// out the same for every T.
//
// Within a step, the columns of a product are so chosen that both operands' loads are 16 bytes a lane: product 2 h + j
// of a lane with t = lane % 4 takes columns 32 h + 8 t + 4 j + {0, 1 | 2, 3}.
//
// 4-bit units lie as halfbyte/kernels/gpu/tiles.py packs them: the words of each step, then of each group and row a
// float16 scale and a float16 -(1024 + z), or -(64 + z) for the lower eight rows.
//
// The kernel before this one may still be running (programmatic dependent launch): weights, which it does not write,
// are fetched before it is waited for. What it does write is read past the first-level cache, which may hold older lines.

#if __CUDA_ARCH__ >= 900
#define LET_NEXT_BEGIN asm volatile("griddepcontrol.launch_dependents;")
#define WAIT_FOR_LAST asm volatile("griddepcontrol.wait;" ::: "memory")
#else
#define LET_NEXT_BEGIN
#define WAIT_FOR_LAST
#endif

#define THREADS (32 * WARPS)
#define COLUMNS (8 * NT)
#if GROUP
#define STEPS (GROUP == 128 ? 2 : 1)                    // of a unit
#define GROUPS (GROUP == 32 ? 2 : 1)                    // of a unit
#define UNIT_BYTES (512 * STEPS + 64 * GROUPS)
#else
#define STEPS 1
#endif

__device__ __forceinline__ uint4 load_weights(const char* p) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

template <typename V> __device__ __forceinline__ V load_shared_by_all(const void* p) { return __ldcg((const V*)p); }

__device__ __forceinline__ u32 pick_or(u32 a, u32 mask, u32 magic) {
    u32 r;  // (a & mask) | magic
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(mask), "r"(magic));
    return r;
}

__device__ __forceinline__ u32 add2(u32 a, u32 b) {
    u32 r;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
    u32 r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}

__device__ __forceinline__ void multiply_add(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A lane's part of a unit.
struct Unit {
#if GROUP
    uint4 words[STEPS];
    uint2 meta[GROUPS];  // of the rows lane / 4 and lane / 4 + 8
#else
    uint4 row[2], lower[2];  // of the rows lane / 4 and lane / 4 + 8, columns 0-31 and 32-63
#endif
};

// Goes along a warp's units; those of a tile lie behind one another, and `skip` bytes further on those of the next.
struct Cursor {
    const char* at;
    int left;  // units of this tile
    __device__ __forceinline__ void next(int bytes, int units, u64 skip) {
        at += bytes;
        if (--left == 0) { left = units; at += skip; }
    }
};

__device__ __forceinline__ void fetch(Unit& u, const char* at, int lane, u64 eight_rows) {
#if GROUP
#pragma unroll
    for (int s = 0; s < STEPS; ++s) u.words[s] = load_weights(at + 512 * s + 16 * lane);
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) u.meta[g] = __ldg((const uint2*)(at + 512 * STEPS + 64 * g) + (lane >> 2));
#else
    u.row[0] = load_weights(at);
    u.row[1] = load_weights(at + 64);
    u.lower[0] = load_weights(at + eight_rows);
    u.lower[1] = load_weights(at + eight_rows + 64);
#endif
}

// x: of each column of tokens this lane's first value of the unit's columns.
__device__ __forceinline__ void consume(const Unit& u, const u16* const (&x)[NT], int column, float (&total)[NT][4]) {
#if GROUP
    float sum[NT][4];
#endif
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        uint4 b[NT][2];
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            b[n][0] = *(const uint4*)(x[n] + column + 64 * step);
            b[n][1] = *(const uint4*)(x[n] + column + 64 * step + 32);
        }
#pragma unroll
        for (int p = 0; p < 4; ++p) {
            const int h = p / 2, j = p % 2;
#if GROUP
            const bool first = step == 0 && (p == 0 || (GROUP == 32 && p == 2));
            const bool last = step == STEPS - 1 && (p == 3 || (GROUP == 32 && p == 1));
            const uint2 meta = u.meta[GROUP == 32 ? h : 0];
            const u32 zero = __byte_perm(meta.x, 0, 0x3232), zero_lower = __byte_perm(meta.y, 0, 0x3232);
            const uint4 v = u.words[step];
            const u32 word = p == 0 ? v.x : p == 1 ? v.y : p == 2 ? v.z : v.w, shifted = word >> 8;
            // A nibble under the exponent of 1024 is 1024 + q; four bits higher up it is 1024 + 16 q.
            const u32 a0 = add2(pick_or(word, 0x000f000f, 0x64006400), zero);
            const u32 a1 = fma2(pick_or(word, 0x00f000f0, 0x64006400), 0x2c002c00, zero_lower);  // 1 / 16
            const u32 a2 = add2(pick_or(shifted, 0x000f000f, 0x64006400), zero);
            const u32 a3 = fma2(pick_or(shifted, 0x00f000f0, 0x64006400), 0x2c002c00, zero_lower);
#else
            const uint4 r = u.row[h], l = u.lower[h];
            const u32 a0 = j ? r.z : r.x, a1 = j ? l.z : l.x, a2 = j ? r.w : r.y, a3 = j ? l.w : l.y;
#endif
#pragma unroll
            for (int n = 0; n < NT; ++n) {
                const u32 b0 = j ? b[n][h].z : b[n][h].x, b1 = j ? b[n][h].w : b[n][h].y;
#if GROUP
                if (first) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.f;
                multiply_add(sum[n], a0, a1, a2, a3, b0, b1);
#else
                multiply_add(total[n], a0, a1, a2, a3, b0, b1);
#endif
            }
#if GROUP
            if (last) {
                const float scale = to_float((u16)meta.x), scale_lower = to_float((u16)meta.y);
#pragma unroll
                for (int n = 0; n < NT; ++n) {
                    total[n][0] += scale * sum[n][0];
                    total[n][1] += scale * sum[n][1];
                    total[n][2] += scale_lower * sum[n][2];
                    total[n][3] += scale_lower * sum[n][3];
                }
            }
#endif
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) stream_linear(
    const char* __restrict__ weight, const float* __restrict__ bias, const void* x_given, const float* __restrict__ norm,
    void* out, int T, int K, int N, int chunks, float eps) {
    extern __shared__ __align__(16) unsigned char shared[];
    LET_NEXT_BEGIN;

    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int columns = K / chunks, units = columns / (64 * STEPS);
    const int all_tiles = (N + 15) / 16;
    const int first_tile = (int)((u64)all_tiles * blockIdx.x / gridDim.x);
    const int tiles = (int)((u64)all_tiles * (blockIdx.x + 1) / gridDim.x) - first_tile;
    const int share = tiles * units;
    const int begin = share * warp / WARPS, end = share * (warp + 1) / WARPS;
    // A row of x is 64 bytes longer than it must be: two rows then lie in different banks.
    const int stride = columns + 32;
    u16* xs = (u16*)shared;
    float* slots = (float*)(shared + (u64)T * stride * 2);  // [tiles + WARPS - 1][16][COLUMNS]

#if GROUP
    const u64 tile_bytes = (u64)(K / (64 * STEPS)) * UNIT_BYTES, skip = tile_bytes - (u64)units * UNIT_BYTES;
    const int unit_bytes = UNIT_BYTES;
    const u64 eight_rows = 0, lane_offset = 0;
#else
    const u64 tile_bytes = (u64)K * 32, skip = tile_bytes - (u64)units * 128, eight_rows = (u64)K * 16;
    const int unit_bytes = 128;
    const u64 lane_offset = (u64)(lane >> 2) * K * 2 + (lane & 3) * 16;
#endif
    const char* own = weight + first_tile * tile_bytes;
    const Cursor start = {own + (begin / units) * tile_bytes + (begin % units) * unit_bytes + lane_offset,
                          units - begin % units};

    Unit ring[DEPTH];
    Cursor ahead = start;
#define FILL_RING                                     \
    _Pragma("unroll") for (int j = 0; j < DEPTH; ++j) \
        if (begin + j < end) {                        \
            fetch(ring[j], ahead.at, lane, eight_rows); \
            ahead.next(unit_bytes, units, skip);      \
        }
    FILL_RING
    WAIT_FOR_LAST;

#if NORM
    __shared__ float squares[COLUMNS][WARPS];
    const float* stream = (const float*)x_given;
    for (int first = 0; first < T; first += 8) {  // eight rows' loads under way at a time
        float square[8] = {};
        for (int k = threadIdx.x * 4; k < K; k += THREADS * 4)
#pragma unroll
            for (int i = 0; i < 8; ++i)
                if (first + i < T) {
                    const float4 v = load_shared_by_all<float4>(stream + (u64)(first + i) * K + k);
                    square[i] += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
                }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (first + i >= T) break;
#pragma unroll
            for (int o = 16; o; o >>= 1) square[i] += __shfl_xor_sync(~0u, square[i], o);
            if (lane == 0) squares[first + i][warp] = square[i];
        }
    }
    __syncthreads();
#endif

    for (int chunk = 0; chunk < chunks; ++chunk) {
        if (chunk) {
            __syncthreads();  // everyone is done with the x of the chunk before
            ahead = start;
            ahead.at += (u64)chunk * units * unit_bytes;
            FILL_RING
        }
#if NORM
        for (int first = 0; first < T; first += 8) {
            float r[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float square = 0.f;
                if (first + i < T)
#pragma unroll
                    for (int v = 0; v < WARPS; ++v) square += squares[first + i][v];
                r[i] = rsqrtf(square / K + eps);
            }
            for (int k = threadIdx.x * 4; k < columns; k += THREADS * 4) {
                const int column = chunk * columns + k;
                const float4 n = *(const float4*)(norm + column);
                float4 v[8];
#pragma unroll
                for (int i = 0; i < 8; ++i)
                    if (first + i < T) v[i] = load_shared_by_all<float4>(stream + (u64)(first + i) * K + column);
#pragma unroll
                for (int i = 0; i < 8; ++i)
                    if (first + i < T)
                        *(uint2*)(xs + (u64)(first + i) * stride + k) =
                            make_uint2(to_half2(v[i].x * r[i] * n.x, v[i].y * r[i] * n.y),
                                       to_half2(v[i].z * r[i] * n.z, v[i].w * r[i] * n.w));
            }
        }
#else
        const u16* from = (const u16*)x_given + chunk * columns;
        for (int t = 0; t < T; ++t)
            for (int k = threadIdx.x * 8; k < columns; k += THREADS * 8) {
                const u32 to = (u32)__cvta_generic_to_shared(xs + (u64)t * stride + k);
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from + (u64)t * K + k) : "memory");
            }
        asm volatile("cp.async.wait_all;" ::: "memory");
#endif
        __syncthreads();

        float total[NT][4] = {};
        const u16* x[NT];
#pragma unroll
        for (int n = 0; n < NT; ++n) x[n] = xs + (u64)min(n * 8 + (lane >> 2), T - 1) * stride + (lane & 3) * 8;
        int tile = begin / units, left = start.left, column = (begin % units) * 64 * STEPS;

        for (int i = begin; i < end; i += DEPTH) {
#pragma unroll
            for (int j = 0; j < DEPTH; ++j) {
                if (i + j >= end) break;
                consume(ring[j], x, column, total);
                column += 64 * STEPS;
                if (i + j + DEPTH < end) {
                    fetch(ring[j], ahead.at, lane, eight_rows);
                    ahead.next(unit_bytes, units, skip);
                }
                if (--left == 0 || i + j + 1 == end) {
                    // Tiles and warps both only go up along the row of units, so this place is nobody else's.
                    float* slot = slots + (tile + warp) * 16 * COLUMNS + (lane >> 2) * COLUMNS + (lane & 3) * 2;
#pragma unroll
                    for (int n = 0; n < NT; ++n)
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            float2* to = (float2*)(slot + 8 * half * COLUMNS + n * 8);
                            float2 v = make_float2(total[n][2 * half], total[n][2 * half + 1]);
                            if (chunk) { v.x += to->x; v.y += to->y; }
                            *to = v;
                            total[n][2 * half] = total[n][2 * half + 1] = 0.f;
                        }
                    left = units, column = 0, ++tile;
                }
            }
        }
    }
    __syncthreads();

#if OUTPUT == 2
    const int rows = 8;  // the others are theirs' `up`
#else
    const int rows = 16;
#endif
    for (int i = threadIdx.x; i < tiles * rows * T; i += THREADS) {
        const int t = i / (tiles * rows), tile = i % (tiles * rows) / rows, r = i % rows;
        const int first_unit = tile * units, last_unit = first_unit + units - 1;
        int v = first_unit * WARPS / share;  // the first warp that ends behind the tile's first unit
        while (share * (v + 1) / WARPS <= first_unit) ++v;
        float y = 0.f;
#if OUTPUT == 2
        float up = 0.f;
#endif
        for (; v < WARPS && share * v / WARPS <= last_unit; ++v) {
            if (share * (v + 1) / WARPS == share * v / WARPS) continue;  // it has none
            const float* slot = slots + (tile + v) * 16 * COLUMNS + t;
            y += slot[r * COLUMNS];
#if OUTPUT == 2
            up += slot[(r + 8) * COLUMNS];
#endif
        }
        const int n = (first_tile + tile) * 16 + r;
#if OUTPUT == 2
        const int f = (first_tile + tile) * 8 + r;
        if (f >= N / 2) continue;
        if (bias) { y += bias[n]; up += bias[n + 8]; }
        ((u16*)out)[(u64)t * (N / 2) + f] = to_half(y / (1.f + __expf(-y)) * up);
#else
        if (n >= N) continue;
        if (bias) y += bias[n];
#if OUTPUT == 0
        ((u16*)out)[(u64)t * N + n] = to_half(y);
#elif OUTPUT == 1
        float* stream_out = (float*)out + (u64)t * N + n;
        *stream_out = __ldcg(stream_out) + y;
#else
        ((float*)out)[(u64)t * N + n] = y;
#endif
#endif
    }
}
