// y = x W^T for many tokens with 4-bit weights, on Hopper: weights become float16 in registers on their way into wgmma.
//
// x [T, K] float16 with its columns in the tiles' order (below); W [N, K] in tiles (halfbyte/kernels/gpu/tiles.py).
// Compiled at run time with these set:
//   GROUP       columns of a group: 32, 64 or 128
//   COLUMNS     tokens of an output tile: 32, 64, 96, 128, 192 or 256
//   HEIGHT      its rows for a warpgroup, in units of 64
//   ABREAST     warpgroups side by side: an output tile has 64 * HEIGHT * ABREAST rows
//   STAGES      stages, of 128 columns of W, in flight
//   OUTPUT      0 float16   1 added to a float32 stream   2 SiLU(gate) * up, float16, columns in the tiles' order
//
// Of a block's warpgroups the first only fetches (by the copy engine, which reports to a barrier for each stage); the
// others multiply. A lane's 16 bytes of a tile are its part of wgmma's first operand for 64 columns; x comes from shared
// memory. wgmma runs on while the next weights are made float16.
//
// All output tiles' stages stand in one row that is shared out evenly: one block a multiprocessor, whatever the number
// of tiles. What a block has of a tile that it does not have whole, it leaves in `parts`; when it is done with its share,
// it puts the parts of some of the tile's tokens together, as all do who had part in it. Sums are taken in the same order
// each time. `flags` counts for each block how often it left its first and its last part there, which it does once in
// every launch, if only in name; so all start out equal.
//
// The tiles' order of the columns of x: column 32 i + 16 j + 8 u + 2 t + e lies at 32 i + 8 t + 4 j + 2 u + e, so that
// what a lane has in 16 bytes of a tile, which stream_linear.cu needs to be so, is what wgmma takes from its registers.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#define THREADS (128 + 128 * ABREAST)
#define ROWS (64 * HEIGHT)          // of a warpgroup
#define TILES (ABREAST * HEIGHT * 4)  // of 16 rows
#define STAGE 128                   // columns that are fetched together
#define TURNS (2 * HEIGHT)          // of unpacking and multiplying 64 columns, in a stage
#define TILE_BYTES (GROUP == 128 ? 1088 : GROUP == 64 ? 1152 : 1280)  // in a stage
#define X_BYTES (COLUMNS * STAGE * 2)
#define W_BYTES (TILES * TILE_BYTES)
#define COUNT (COLUMNS / 2)  // sums of a thread for 64 rows
#define CHUNK 32             // tokens whose results are turned together
#define PITCH (OUTPUT == 2 ? 80 : 144)  // bytes of a token there
#define TURNED (OUTPUT == 1 ? 0 : ABREAST * CHUNK * PITCH)
#define PART (HEIGHT * COUNT / 4 * 128)  // of a warpgroup, in float4s

// Registers of a thread that fetches and of one that multiplies: together no more than the block was started with, which
// is the most that is a multiple of 8 for all threads.
#define FEW_REGISTERS (ABREAST == 4 ? 32 : 40)
#define MANY_REGISTERS (ABREAST == 4 ? 112 : ABREAST == 3 ? 152 : 232)

struct alignas(64) TensorMap { u64 words[16]; };

__device__ __forceinline__ u32 address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void wait_for(u32 barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra AGAIN;\nDONE:\n}"
        ::"r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void meet(int id, int threads = 128) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ u32 to_half2(float low, float high) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// Four 8 x 8 matrices, turned: a lane's two neighbours go to two rows. `at`: of row lane % 8 of matrix lane / 8.
__device__ __forceinline__ void store_turned(u32 at, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};"
                 ::"r"(at), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

__device__ __forceinline__ u32 unpacked(u32 word, u32 mask, u32 factor, u32 zero, u32 scale) {
    u32 r;  // ((word & mask) | 1024's exponent) * factor + zero, * scale
    asm("{ .reg .b32 t; lop3.b32 t, %1, %2, 0x64006400, 0xea; fma.rn.f16x2 t, t, %3, %4; mul.rn.f16x2 %0, t, %5; }"
        : "=r"(r) : "r"(word), "r"(mask), "r"(factor), "r"(zero), "r"(scale));
    return r;
}

#define TEN(p) "%" p "0,%" p "1,%" p "2,%" p "3,%" p "4,%" p "5,%" p "6,%" p "7,%" p "8,%" p "9,"
#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F16(i) F4(i), F4(i + 4), F4(i + 8), F4(i + 12)
#define F64(i) F16(i), F16(i + 16), F16(i + 32), F16(i + 48)
#define WGMMA(n, sums, a0, a1, a2, a3, b, list)                                                                      \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" sums "}, {%" a0 ",%" a1 ",%" a2 ",%" a3    \
                 "}, %" b ", 1, 1, 1, 0;" : list : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(x))

// d [64 rows, COLUMNS tokens] += a [64, 16] of registers times x [16, COLUMNS] of shared memory.
__device__ __forceinline__ void multiply_add(float (&d)[COUNT], const u32* a, u32 x_low, u32 x_high) {
    u64 x;
    asm("mov.b64 %0, {%1, %2};" : "=l"(x) : "r"(x_low), "r"(x_high));
#if COLUMNS == 32
    WGMMA("32", TEN("") "%10,%11,%12,%13,%14,%15", "16", "17", "18", "19", "20", F16(0));
#elif COLUMNS == 64
#define LIST F16(0), F16(16)
    WGMMA("64", TEN("") TEN("1") TEN("2") "%30,%31", "32", "33", "34", "35", "36", LIST);
#elif COLUMNS == 96
#define LIST F16(0), F16(16), F16(32)
    WGMMA("96", TEN("") TEN("1") TEN("2") TEN("3") "%40,%41,%42,%43,%44,%45,%46,%47", "48", "49", "50", "51", "52", LIST);
#elif COLUMNS == 192
#define LIST F64(0), F16(64), F16(80)
    WGMMA("192", TEN("") TEN("1") TEN("2") TEN("3") TEN("4") TEN("5") TEN("6") TEN("7") TEN("8")
          "%90,%91,%92,%93,%94,%95", "96", "97", "98", "99", "100", LIST);
#elif COLUMNS == 128
    WGMMA("128", TEN("") TEN("1") TEN("2") TEN("3") TEN("4") TEN("5") "%60,%61,%62,%63", "64", "65", "66", "67", "68",
          F64(0));
#else
#define LIST F64(0), F64(64)
    WGMMA("256", TEN("") TEN("1") TEN("2") TEN("3") TEN("4") TEN("5") TEN("6") TEN("7") TEN("8") TEN("9") TEN("10")
          TEN("11") "%120,%121,%122,%123,%124,%125,%126,%127", "128", "129", "130", "131", "132", LIST);
#endif
}

// A block's way through the row of all tiles' stages, piece by piece: a piece is what it has of one tile.
struct Piece {
    int at, end, stages;  // in that row; of a tile
    int tile, from, to;   // stages [from, to) of the tile
    __device__ __forceinline__ bool next() {
        at += to - from;
        if (at >= end) return false;
        tile = at / stages;
        from = at - tile * stages;
        to = min(stages, from + end - at);
        return true;
    }
};

// How the row of all stages is shared out: the first blocks have one more, where that is needed; of more blocks than
// stages, the last have none.
struct Shares {
    u32 least, more;
    __device__ __forceinline__ Shares(u32 all, u32 blocks) : least(all / blocks), more(all % blocks) {}
    __device__ __forceinline__ int begin(u32 block) const { return least * block + min(block, more); }
    __device__ __forceinline__ int block_of(u32 stage) const {
        const u32 theirs = more * (least + 1);
        return stage < theirs ? stage / (least + 1) : more + (stage - theirs) / max(least, 1u);
    }
};

// Results of a warpgroup's 64 rows for a chunk of 32 tokens, of which those in [from, to) are wanted.
// v[4 n + 2 r + e]: row 16 warp + lane / 4 + 8 r, token 8 n + 2 (lane % 4) + e.
struct Writer {
    void* out;
    const float* bias;
    u32 buffer;  // in shared memory
    int barrier, N, T, lane, warp, thread;

    __device__ __forceinline__ void write(const float (&v)[16], int row0, int token0, int from, int to) const {
        const int row = row0 + 16 * warp + (lane >> 2);
        const float below = bias && row < N ? bias[row] : 0.f, above = bias && row < N ? bias[row + 8] : 0.f;
        to = min(to, T - token0);
#if OUTPUT == 1
        if (row >= N) return;
        float* at = (float*)out + (u64)token0 * N + row;
        float before[16];
#pragma unroll
        for (int c = 0; c < 16; ++c) {
            const int token = c / 4 * 8 + (lane & 3) * 2 + (c & 1);
            if (token >= from && token < to) before[c] = __ldcg(at + (u64)token * N + (c & 2) * 4);
        }
#pragma unroll
        for (int c = 0; c < 16; ++c) {
            const int token = c / 4 * 8 + (lane & 3) * 2 + (c & 1);
            if (token >= from && token < to)
                at[(u64)token * N + (c & 2) * 4] = before[c] + v[c] + (c & 2 ? above : below);
        }
#else
        meet(barrier);  // what was there has been read
        const u32 own_row = buffer + (lane & 7) * PITCH;
#if OUTPUT == 2
        // Of 16 rows the first 8 are gate's, the others the `up` that belong to them.
        u32 y[4];
#pragma unroll
        for (int n = 0; n < 4; ++n)
            y[n] = to_half2(silu(v[4 * n] + below) * (v[4 * n + 2] + above),
                            silu(v[4 * n + 1] + below) * (v[4 * n + 3] + above));
        store_turned(own_row + (lane / 8) * 8 * PITCH + warp * 16, y[0], y[1], y[2], y[3]);
        meet(barrier);
        const int token = thread / 4, t = thread % 4;
        const u32 at = buffer + token * PITCH + 4 * t;
        uint4 line;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(line.x) : "r"(at));
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(line.y) : "r"(at + 16));
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(line.z) : "r"(at + 32));
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(line.w) : "r"(at + 48));
        if (token >= from && token < to && row0 < N)
            *(uint4*)((u16*)out + (u64)(token0 + token) * (N / 2) + row0 / 2 + 8 * t) = line;
#else
#pragma unroll
        for (int n = 0; n < 4; n += 2)
            store_turned(own_row + (n + lane / 16) * 8 * PITCH + warp * 32 + (lane / 8 & 1) * 16,
                         to_half2(v[4 * n] + below, v[4 * n + 1] + below),
                         to_half2(v[4 * n + 2] + above, v[4 * n + 3] + above),
                         to_half2(v[4 * n + 4] + below, v[4 * n + 5] + below),
                         to_half2(v[4 * n + 6] + above, v[4 * n + 7] + above));
        meet(barrier);
#pragma unroll
        for (int line = 0; line < 2; ++line) {
            const int token = thread / 8 + 16 * line, at = thread % 8;
            uint4 y;
            asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                         : "=r"(y.x), "=r"(y.y), "=r"(y.z), "=r"(y.w) : "r"(buffer + token * PITCH + 16 * at));
            if (token >= from && token < to && row0 + 8 * at < N)
                *(uint4*)((u16*)out + (u64)(token0 + token) * N + row0 + 8 * at) = y;
        }
#endif
#endif
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) wide_linear(
    const __grid_constant__ TensorMap weights, const __grid_constant__ TensorMap activations,
    const float* __restrict__ bias, void* out, float4* parts, int* flags, int T, int K, int N) {
    extern __shared__ __align__(1024) unsigned char shared[];
    unsigned char* xs = shared;
    unsigned char* ws = shared + STAGES * X_BYTES;
    unsigned char* turned = ws + STAGES * W_BYTES;
    const u32 full = address(turned + TURNED), empty = full + 8 * STAGES;

    const int lane = threadIdx.x & 31, thread = threadIdx.x & 127, warp = thread / 32;
    const int all_tiles = (N + 15) / 16, across = (T + COLUMNS - 1) / COLUMNS, stages = K / STAGE;
    const int all = (all_tiles + TILES - 1) / TILES * across * stages;
    const Shares shares(all, gridDim.x);
    const int begin = shares.begin(blockIdx.x), end = shares.begin(blockIdx.x + 1);
    Piece piece = {begin, end, stages, 0, 0, 0};

    asm volatile("griddepcontrol.launch_dependents;");
    if (threadIdx.x == 0) {
        asm volatile("prefetch.tensormap [%0];" ::"l"(&weights) : "memory");
        asm volatile("prefetch.tensormap [%0];" ::"l"(&activations) : "memory");
        for (int s = 0; s < STAGES; ++s) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full + 8 * s));
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + 8 * s), "r"(4 * ABREAST));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();

    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FEW_REGISTERS));
        if (threadIdx.x) return;
        auto fetch = [&](const TensorMap& map, u32 to, int column, int row, u32 barrier) {
            asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                         "[%0], [%1, {%2, %3}], [%4];"
                         ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier) : "memory");
        };
        auto fetch_weights = [&](const Piece& p, int k, int s) {
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                         ::"r"(full + 8 * s), "r"(X_BYTES + W_BYTES) : "memory");
            fetch(weights, address(ws + s * W_BYTES), k * (TILE_BYTES / 8), p.tile / across * TILES, full + 8 * s);
        };
        // The kernel before this one may still be making x; weights are there.
        Piece ahead = piece;
        int count = 0;
        while (count < STAGES && ahead.next())
            for (int k = ahead.from; k < ahead.to && count < STAGES; ++k) fetch_weights(ahead, k, count++);
        asm volatile("griddepcontrol.wait;" ::: "memory");
        int i = 0;
        while (piece.next())
            for (int k = piece.from; k < piece.to; ++k, ++i) {
                const int s = i % STAGES;
                if (i >= STAGES) {
                    wait_for(empty + 8 * s, (i / STAGES - 1) & 1);
                    fetch_weights(piece, k, s);
                }
#pragma unroll
                for (int step = 0; step < 2; ++step)
                    fetch(activations, address(xs + s * X_BYTES + step * COLUMNS * 128), k * STAGE + 64 * step,
                          piece.tile % across * COLUMNS, full + 8 * s);
            }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MANY_REGISTERS));
    asm volatile("griddepcontrol.wait;" ::: "memory");
    const int member = threadIdx.x / 128 - 1;
    const Writer writer = {out, bias, address(turned + member * CHUNK * PITCH), 1 + member, N, T, lane, warp, thread};
    // of a block's first and last part
    auto part_of = [&](int block, int which) { return parts + ((u64)(block * 2 + which) * ABREAST + member) * PART + thread; };
    auto flag_of = [&](int block, int which) { return flags + (block * 2 + which) * 4 + member; };
    int epoch;
    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(epoch) : "l"(flag_of(blockIdx.x, 0)) : "memory");
    const u32 high = 1u << 30 | 64;  // of a matrix descriptor: 128 bytes' swizzle, 1024 bytes from 8 tokens to the next

    for (int first = 0; piece.next(); first += piece.to - piece.from) {  // the piece's first stage, of all of this block
        float sums[HEIGHT][COUNT];
#pragma unroll
        for (int h = 0; h < HEIGHT; ++h)
#pragma unroll
            for (int c = 0; c < COUNT; ++c) sums[h][c] = 0.f;
        u32 a[2][16];  // unpacked weights: some are multiplied while others are made
        const int count = piece.to - piece.from;
        for (int k = 0; k < count; ++k) {
            const int s = (first + k) % STAGES;
            wait_for(full + 8 * s, (first + k) / STAGES & 1);
            const unsigned char* w = ws + s * W_BYTES + (member * HEIGHT * 4 + warp) * TILE_BYTES;
            const u32 x = address(xs + s * X_BYTES) >> 4 | 1 << 16;
            uint4 words[TURNS];
            uint2 metas[TURNS][2];
#pragma unroll
            for (int turn = 0; turn < TURNS; ++turn) {
                // where the step's words and its groups' zeros and scales lie
                const unsigned char* tile = w + turn % HEIGHT * 4 * TILE_BYTES;
                const int step = turn / HEIGHT, unit = GROUP == 128 ? 0 : step * (TILE_BYTES / 2);
                words[turn] = *(const uint4*)(tile + unit + (GROUP == 128 ? 512 * step : 0) + 16 * lane);
                const uint2* meta = (const uint2*)(tile + unit + (GROUP == 128 ? 1024 : 512)) + (lane >> 2);
                metas[turn][0] = meta[0];
                metas[turn][1] = GROUP == 32 ? meta[8] : meta[0];
            }
#pragma unroll
            for (int turn = 0; turn < TURNS; ++turn) {
                const int h = turn % HEIGHT, step = turn / HEIGHT;
                u32(&now)[16] = a[turn & 1];
#pragma unroll
                for (int part = 0; part < 2; ++part) {
                    const uint2 meta = metas[turn][part];
                    const u32 zero = __byte_perm(meta.x, 0, 0x3232), scale = __byte_perm(meta.x, 0, 0x1010);
                    const u32 zero_lower = __byte_perm(meta.y, 0, 0x3232), scale_lower = __byte_perm(meta.y, 0, 0x1010);
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        const uint4 v = words[turn];
                        const u32 word = part ? (j ? v.w : v.z) : (j ? v.y : v.x), shifted = word >> 8;
                        u32* to = now + 8 * part + 4 * j;
                        to[0] = unpacked(word, 0x000f000f, 0x3c003c00, zero, scale);
                        to[1] = unpacked(word, 0x00f000f0, 0x2c002c00, zero_lower, scale_lower);
                        to[2] = unpacked(shifted, 0x000f000f, 0x3c003c00, zero, scale);
                        to[3] = unpacked(shifted, 0x00f000f0, 0x2c002c00, zero_lower, scale_lower);
                    }
                }
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int p = 0; p < 4; ++p) multiply_add(sums[h], now + 4 * p, x + step * (COLUMNS * 8) + 2 * p, high);
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (turn == 0 && k && lane == 0)  // what the stage before this one was for is done
                    arrive(empty + 8 * ((first + k - 1) % STAGES));
            }
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (lane == 0) arrive(empty + 8 * ((first + count - 1) % STAGES));

        if (count < stages) {
            const int which = piece.from == 0;
            float4* to = part_of(blockIdx.x, which);
#pragma unroll
            for (int h = 0; h < HEIGHT; ++h)
#pragma unroll
                for (int c = 0; c < COUNT; c += 4)
                    __stcg(to + (h * COUNT + c) / 4 * 128,
                           make_float4(sums[h][c], sums[h][c + 1], sums[h][c + 2], sums[h][c + 3]));
            meet(1 + member);
            if (thread == 0)  // what the others wrote before they met is released with it
                asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(flag_of(blockIdx.x, which)), "r"(epoch + 1) : "memory");
            continue;
        }
        const int token0 = piece.tile % across * COLUMNS;
#pragma unroll
        for (int h = 0; h < HEIGHT; ++h) {
            const int row0 = ((piece.tile / across * ABREAST + member) * HEIGHT + h) * 64;
            if (row0 >= N) break;  // the same for the whole warpgroup
#pragma unroll
            for (int chunk = 0; chunk < COLUMNS / CHUNK; ++chunk) {
                if (token0 + CHUNK * chunk >= T) break;
                float v[16];
#pragma unroll
                for (int c = 0; c < 16; ++c) v[c] = sums[h][16 * chunk + c];
                writer.write(v, row0, token0 + CHUNK * chunk, 0, CHUNK);
            }
        }
    }

    // Flags of parts that there were none of, so that all stay equal; and of warpgroups that this kernel has not.
    const bool has_first = begin < end && begin % stages != 0;
    const bool has_last = begin < end && end % stages != 0 && end / stages * stages >= begin;
    if (thread == 0) {
        if (!has_first) *flag_of(blockIdx.x, 0) = epoch + 1;
        if (!has_last) *flag_of(blockIdx.x, 1) = epoch + 1;
        if (member == 0)
            for (int other = ABREAST; other < 4; ++other)
                *(flag_of(blockIdx.x, 0) + other) = *(flag_of(blockIdx.x, 1) + other) = epoch + 1;
    }

    // A tile of which this block has a part begins at `at` of the row; blocks [low, low + C) had part in it.
    for (int which = 0; which < 2; ++which) {
        if (!(which ? has_last : has_first)) continue;
        const int tile = which ? end / stages : begin / stages, at = tile * stages;
        const int low = shares.block_of(at), above = shares.block_of(at + stages - 1) + 1;
        for (int block = low + thread; block < above; block += 128) {
            // Only the block in which the tile begins has it as its last part.
            const int* flag = flag_of(block, block == low);
            int found;
            do asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(found) : "l"(flag) : "memory");
            while (found != epoch + 1);
        }
        meet(1 + member);
        const int blocks = above - low, mine = blockIdx.x - low;
        const int n_from = COLUMNS / 8 * mine / blocks, n_to = COLUMNS / 8 * (mine + 1) / blocks;
        const int token0 = tile % across * COLUMNS;
        for (int h = 0; h < HEIGHT; ++h) {
            const int row0 = ((tile / across * ABREAST + member) * HEIGHT + h) * 64;
            if (row0 >= N) break;
            for (int n = n_from; n < n_to && token0 + 8 * n < T; n += 4) {
                float v[16] = {};
                for (int block = low; block < above; ++block) {
                    const float4* from = part_of(block, block == low) + (h * COUNT / 4 + n) * 128;
#pragma unroll
                    for (int c = 0; c < 4; ++c)
                        if (n + c < n_to) {
                            const float4 y = __ldcg(from + c * 128);
                            v[4 * c] += y.x, v[4 * c + 1] += y.y, v[4 * c + 2] += y.z, v[4 * c + 3] += y.w;
                        }
                }
                writer.write(v, row0, token0 + 8 * n, 0, 8 * (n_to - n));
            }
        }
    }
}
