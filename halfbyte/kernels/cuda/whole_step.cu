// One token of each of a few sequences through all blocks of a network: one kernel, whose weights never stop
// coming. With step.cuh before it.
//
// At such sizes a step is nothing but reading the weights once, and each product is so short (5 to 40 us) that what lies
// between two of them, the end of one and the beginning of the next, costs as much as the reading. Here a thread block
// stays on each multiprocessor for the whole step. Which weights it will need, in what order, is known from the start, and
// they are fetched into rings in shared memory, as far ahead as these hold: over the ends of products, over the barriers
// between multiprocessors, over attention. (By bulk copies, which wait in a queue of their own: cp.async is held back when
// the memory is busy, and with it whatever its warp does next.)
//
// What a layer runs through must fit into the instruction cache, or the multiprocessors wait for instructions longer than
// for weights: one piece of code serves all four products, and little is unrolled.
//
// A block of the network is five phases with a barrier of the grid behind each: qkv; attention; o; gate and up; down.
// Everything that one phase hands to the next goes through the second-level cache.
//
// Compiled at run time with these set, beside those of step.cuh:
//   BATCH, LAYERS     the step's shape
//   BLOCK    tokens of a page
//   GRID, WARPS, DEPTH (of a warp's ring), SHARED (bytes of shared memory)
//
// A block owns whole tiles. The units of all of them, in one row, are shared out to its warps, so that each reads one run
// of memory. Where tiles have an even number of units, runs begin at even ones and two go through the ring together: bulk
// copies are slower from addresses that are no multiples of 128, and two chains of products hide each other's latency.
//
// Products are of integers: widening nibbles to float16, five instructions for eight of them beside the additions, would take
// as long as reading them. x goes, group by group, as 16-bit multiples of a 32639th of its largest number (closer than
// float16 is to all but the smallest), each as two bytes, and both bytes of up to four tokens fill the eight columns of a
// product. Bytes of weights are nibbles where they lie: those of a tile's upper eight rows are q, those of the lower
// 16 q. Sums of a group are exact, q - z is taken there, and only then scales make floats of them.

#define THREADS (32 * WARPS)
__device__ __forceinline__ int first_tile_of(int p, int block) { return (u32)tiles_of(p) * block / GRID; }
__host__ __device__ constexpr bool is_even(int p) { return units_of(p) % 2 == 0; }
constexpr int PER = is_even(QKV) && is_even(O) && is_even(DOWN) ? 2 : 1;  // units of a place in a ring
constexpr int MOST_COLUMNS = most(most(columns_of(QKV), columns_of(O)), columns_of(DOWN));
constexpr int MOST_TILES = (most(most(tiles_of(QKV), tiles_of(O)), most(tiles_of(GATE_UP), tiles_of(DOWN))) + GRID - 1) / GRID;
constexpr int OWN_TILES = (tiles_of(O) + GRID - 1) / GRID;
constexpr int X_STRIDE = MOST_COLUMNS % 128 ? MOST_COLUMNS : MOST_COLUMNS + 64;  // neighbouring rows in different banks

#define STRIDE (WARPS * TOKENS)  // of the block: tokens at once
#define AHEAD (SHARING > 1 ? 2 : 4)
#define RESULT (D + 2)

// What a warp reads in a phase: units begin to end of the row of its block's units, which begins with first_tile.
struct Run {
    int tiles, begin, end, first_tile;
};

#define SQUARES ((HIDDEN + 255) / 256)

struct Shared {
    __align__(128) uint4 ring[WARPS][DEPTH][PER][UNIT_BYTES / 16];
    Run runs[4][WARPS];
    union {
        __align__(16) signed char x[2 * BATCH][X_STRIDE];  // upper and lower bytes; in the order of `keep`
        float results[WARPS][SHARING][RESULT];
    };
    int2 groups[MOST_COLUMNS / GROUP][BATCH];     // of x: what its integers are multiples of, a float; their sum
    float slots[MOST_TILES + WARPS - 1][16][BATCH];   // a warp's part of a tile's product
    float own[OWN_TILES][16][BATCH];                  // the residual stream's rows that are this block's
    float squares[BATCH][SQUARES];                // of 256 columns each
    u64 layers[LAYERS][ENTRIES];
    float cos[BATCH][D], sin[BATCH][D];
    u64 full[WARPS][DEPTH];                       // a ring's places: copied
    int contexts[BATCH];
};

static_assert(sizeof(Shared) <= SHARED, "whole_step.py counts otherwise");

// Of a number that is not negative; no number where it would be too small for one.
__device__ __forceinline__ float reciprocal(float x) {
    const float r = fast_reciprocal(x);
    return x < 8e37f ? r : __int_as_float(0x7fffffff);
}

// A barrier of the whole grid. Its counter only goes up, from step to step too.
struct Barrier {
    u32* counter;
    u32 target;
    __device__ __forceinline__ void arrive() {
        target += GRID;
        __syncthreads();
        if (threadIdx.x == THREADS - 1) add_released(counter);
    }
    __device__ __forceinline__ void wait() {
        if (threadIdx.x == THREADS - 1) {
            while ((int)(load_acquired(counter) - target) < 0);
        }
        __syncthreads();
    }
};

// A warp's ring: its lanes all know what comes next, the first one asks for it.
struct Ring {
    Shared& shared;
    const char* from;  // where the next units come from
    int left, phase;   // units of that phase; it
    u32 place, parity; // what is computed with next
    const int warp;

    __device__ __forceinline__ Ring(Shared& s) : shared(s), left(0), phase(-1), place(0), parity(0), warp(threadIdx.x >> 5) {
#pragma unroll 1
        for (int i = 0; i < DEPTH; ++i) fetch(i);
    }
    __device__ __forceinline__ void fetch(int to) {
        while (left == 0) {
            if (++phase >= LAYERS * 4) { phase = LAYERS * 4; return; }
            const Run run = shared.runs[phase % 4][warp];
            left = run.end - run.begin;
            from = (const char*)shared.layers[phase / 4][WEIGHTS + phase % 4] +
                   (u64)(u32)(run.first_tile * units_of(phase % 4) + run.begin) * UNIT_BYTES;
        }
        if ((threadIdx.x & 31) == 0) {
            const u32 full = address(&shared.full[warp][to]);
            expect_at(full, PER * UNIT_BYTES);
            copy(address(shared.ring[warp][to]), from, PER * UNIT_BYTES, full);
        }
        from += PER * UNIT_BYTES, left -= PER;
    }
};

// What a warp multiplies of a unit.
struct Unit {
    uint4 words[STEPS];
    uint2 meta[GROUPS];
    __device__ __forceinline__ void load(const uint4* unit, int lane) {
#pragma unroll
        for (int s = 0; s < STEPS; ++s) words[s] = unit[32 * s + lane];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) meta[g] = ((const uint2*)(unit + 32 * STEPS + 4 * g))[lane >> 2];
    }
    // x: this lane's first byte of the unit's columns; of: its first group's, of this lane's token. total: of rows lane / 4
    // and lane / 4 + 8.
    __device__ __forceinline__ void multiply(const signed char* x, const int2* of, float (&total)[2]) const {
        total[0] = total[1] = 0.f;
        int sums[2][4];  // two chains of products, which do not wait for each other
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
            const uint4 b = *(const uint4*)(x + 64 * s), w = words[s];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                int(&sum)[4] = sums[GROUP == 128 ? s : h];
                if (GROUP != 128 || h == 0) sum[0] = sum[1] = sum[2] = sum[3] = 0;
                const u32 w0 = h ? w.z : w.x, w1 = h ? w.w : w.y;
                multiply_add(sum, w0 & 0x0f0f0f0f, w0 & 0xf0f0f0f0, w1 & 0x0f0f0f0f, w1 & 0xf0f0f0f0, h ? b.z : b.x, h ? b.w : b.y);
            }
        }
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            const int2 x_group = of[g * BATCH];
            const float unit = __int_as_float(x_group.x);
            int sum[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] = GROUP == 32 ? sums[g][i] : sums[0][i] + sums[1][i];
            // The last ten bits of -(1024 + z) are z, those of -(64 + z) are 16 z.
            const int upper = sum[0] * 256 + sum[1] - (int)(meta[g].x >> 16 & 0x3ff) * x_group.y;
            const int lower = sum[2] * 256 + sum[3] - (int)(meta[g].y >> 16 & 0x3ff) * x_group.y;
            total[0] += (float)upper * (to_float((u16)meta[g].x) * unit);
            total[1] += (float)lower * (to_float((u16)meta[g].y) * (unit * 0.0625f));
        }
    }
};

#define EACH_X 8  // neighbouring columns of x that a thread makes integers of
#define CHUNK (THREADS * EACH_X)  // columns that the block's threads take at once
#define ROW_WARPS (WARPS / BATCH)  // that norm a row
#define ROW_CHUNKS ((HIDDEN + ROW_WARPS * 32 * EACH_X - 1) / (ROW_WARPS * 32 * EACH_X))

// EACH_X columns of x into shared memory as integers; all lanes of a warp are here. The eight bytes of columns 32 h + 8 t and
// on lie at 16 t + 8 h of their 64, and of each four the middle ones are exchanged: as weights lie.
__device__ __forceinline__ void keep(Shared& shared, int t, int column, int columns, const float (&x)[EACH_X]) {
    float most = 0.f;
#pragma unroll
    for (int i = 0; i < EACH_X; ++i) most = larger(most, fabsf(x[i]));
#pragma unroll
    for (int o = GROUP / EACH_X / 2; o; o >>= 1) most = larger(most, __shfl_xor_sync(~0u, most, o));
    const float per = most > 0.f ? 32639.f * reciprocal(most) : 0.f;
    int sums_upper = 0, sum = 0;
#pragma unroll
    for (int e = 0; e < EACH_X; e += 8) {
        u32 upper[2], lower[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            u32 n[4];  // in its last 16 bits the nearest integer and 128, for 1.5 * 2^23 is added; so the second byte is rounded too
#pragma unroll
            for (int k = 0; k < 4; ++k) n[k] = __float_as_uint(fmaf(x[e + 4 * i + k], per, 12582912.f + 128.f));
            const u32 even = __byte_perm(n[0], n[2], 0x5410), odd = __byte_perm(n[1], n[3], 0x5410);
            upper[i] = __byte_perm(even, odd, 0x7531), lower[i] = __byte_perm(even, odd, 0x6420) ^ 0x80808080;
            sums_upper = __dp4a((int)upper[i], 0x01010101, sums_upper), sum = __dp4a((int)lower[i], 0x01010101, sum);
        }
        const int c = column + e, to = (c & ~63) + (c >> 3 & 3) * 16 + (c >> 5 & 1) * 8;
        if (column < columns) {
            *(uint2*)(shared.x[2 * t] + to) = make_uint2(upper[0], upper[1]);
            *(uint2*)(shared.x[2 * t + 1] + to) = make_uint2(lower[0], lower[1]);
        }
    }
    sum += sums_upper * 256;
#pragma unroll
    for (int o = GROUP / EACH_X / 2; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if (column < columns && column % GROUP == 0) shared.groups[column / GROUP][t] = make_int2(__float_as_int(most * (1.f / 32639.f)), sum);
}

// The normed stream [BATCH, HIDDEN]: kept as x, or where there is `out` written to it.
__device__ __forceinline__ void norm_rows(Shared& shared, const float* stream, const float* norm, float eps, float* out) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t = warp / ROW_WARPS;
    const int first = (warp % ROW_WARPS * 32 + lane) * EACH_X;
    float x[ROW_CHUNKS][EACH_X] = {}, n[ROW_CHUNKS][EACH_X] = {};
    if (t < BATCH) {
#pragma unroll
        for (int c = 0; c < ROW_CHUNKS; ++c)
#pragma unroll
            for (int i = 0; i < EACH_X; i += 4) {
                const int column = first + c * ROW_WARPS * 32 * EACH_X + i;
                if (column < HIDDEN) {
                    const float4 a = __ldcg((const float4*)(stream + t * HIDDEN + column)), b = __ldg((const float4*)(norm + column));
                    x[c][i] = a.x, x[c][i + 1] = a.y, x[c][i + 2] = a.z, x[c][i + 3] = a.w;
                    n[c][i] = b.x, n[c][i + 1] = b.y, n[c][i + 2] = b.z, n[c][i + 3] = b.w;
                }
            }
#pragma unroll
        for (int c = 0; c < ROW_CHUNKS; ++c) {
            float square = 0.f;
#pragma unroll
            for (int i = 0; i < EACH_X; ++i) square += x[c][i] * x[c][i], x[c][i] *= n[c][i];
#pragma unroll
            for (int o = 16; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
            const int chunk = c * ROW_WARPS + warp % ROW_WARPS;
            if (lane == 0 && chunk < SQUARES) shared.squares[t][chunk] = square;
        }
    }
    __syncthreads();
    if (t >= BATCH) return;
    float all = 0.f;
#pragma unroll
    for (int c = 0; c < SQUARES; ++c) all += shared.squares[t][c];
    const float r = rsqrtf(all / HIDDEN + eps);
#pragma unroll
    for (int c = 0; c < ROW_CHUNKS; ++c) {
        const int column = first + c * ROW_WARPS * 32 * EACH_X;
#pragma unroll
        for (int i = 0; i < EACH_X; ++i) x[c][i] *= r;
        if (out == nullptr)
            keep(shared, t, column, HIDDEN, x[c]);
        else if (column < HIDDEN)
#pragma unroll
            for (int i = 0; i < EACH_X; i += 4)
                *(float4*)(out + t * HIDDEN + column + i) = make_float4(x[c][i], x[c][i + 1], x[c][i + 2], x[c][i + 3]);
    }
}

// x [BATCH, FFN] float16.
__device__ __forceinline__ void keep_activated(Shared& shared, const u16* from) {
    constexpr int ALL = BATCH * FFN, COUNT = (ALL + CHUNK - 1) / CHUNK, TOGETHER = COUNT < 3 ? COUNT : 24 / EACH_X ? 24 / EACH_X : 1;
#pragma unroll 1
    for (int base = threadIdx.x * EACH_X; base - (int)threadIdx.x * EACH_X < ALL; base += TOGETHER * CHUNK) {
        uint4 v[TOGETHER][EACH_X / 8];
#pragma unroll
        for (int c = 0; c < TOGETHER; ++c)
#pragma unroll
            for (int i = 0; i < EACH_X / 8; ++i)
                v[c][i] = base + c * CHUNK < ALL ? __ldcg((const uint4*)(from + base + c * CHUNK) + i) : uint4{};
#pragma unroll
        for (int c = 0; c < TOGETHER; ++c) {
            const int at = base + c * CHUNK;
            float x[EACH_X];
#pragma unroll
            for (int i = 0; i < EACH_X / 8; ++i) widened(v[c][i], x + 8 * i);
            keep(shared, at / FFN, at < ALL ? at % FFN : FFN, FFN, x);
        }
    }
}

// The pieces' results [PIECES, BATCH, HEADS, D], put together: a few are loaded together, and added in their order.
__device__ __forceinline__ void keep_attended(Shared& shared, const u16* parts, const float* weights) {
    constexpr int K = HEADS * D, ALL = BATCH * K, FEW = 4;
#pragma unroll 1
    for (int base = threadIdx.x * EACH_X; base - (int)threadIdx.x * EACH_X < ALL; base += CHUNK) {
        const int t = min(base / K, BATCH - 1), context = base < ALL ? shared.contexts[t] : 0, length = length_of_pieces(context);
        float y[EACH_X] = {}, best = -1e30f, mass = 0.f;
        const bool one = context <= length;
        if (one && context > 0) widened(__ldcg((const uint4*)(parts + base)), y);
#pragma unroll 1
        for (int some = 0; !one && some * length < context; some += FEW) {
            uint4 v[FEW];
            float w[FEW], now = best;
#pragma unroll
            for (int p = 0; p < FEW; ++p) {
                v[p] = uint4{}, w[p] = __int_as_float(0xff800000);
                if ((some + p) * length < context) {
                    v[p] = __ldcg((const uint4*)(parts + (some + p) * ALL + base));
                    w[p] = __ldcg(weights + ((some + p) * ALL + base) / D);
                }
            }
#pragma unroll
            for (int p = 0; p < FEW; ++p) now = fmaxf(now, w[p]);
            const float shrink = __expf(best - now);
            best = now, mass *= shrink;
#pragma unroll
            for (int i = 0; i < EACH_X; ++i) y[i] *= shrink;
#pragma unroll
            for (int p = 0; p < FEW; ++p) {
                const float share = __expf(w[p] - best);
                float x[EACH_X];
                widened(v[p], x);
                mass += share;
#pragma unroll
                for (int i = 0; i < EACH_X; ++i) y[i] += share * x[i];
            }
        }
        const float r = one ? 1.f : mass != 0.f ? __fdividef(1.f, mass) : 0.f;
#pragma unroll
        for (int i = 0; i < EACH_X; ++i) y[i] *= r;
        __syncwarp();
        keep(shared, base / K, base < ALL ? base % K : K, K, y);
    }
}

// y = x W^T for this block's rows of a phase; `out(tile, row, row of the tile, t, y, up)`, tile among the block's; up: of gate
// and up.
template <typename Out>
__device__ __forceinline__ void product(Shared& shared, Ring& ring, int phase, Out out) {
    const int units = units_of(phase), lane = threadIdx.x & 31, warp = ring.warp;
    const Run run = shared.runs[phase][warp];
    const int first = run.begin % units;
    const signed char* const x = shared.x[min(lane >> 2, 2 * BATCH - 1)] + (lane & 3) * 16;
    const int2* const of_token = &shared.groups[0][min(lane & 3, BATCH - 1)];
    float total[2] = {};
    int unit = first;
    // Tiles and warps both only go up along the row of units: these places are nobody else's.
    float(*slot)[BATCH] = shared.slots[run.begin / units + warp];
    __syncthreads();  // x is there
#pragma unroll 1
    for (int left = run.end - run.begin; left > 0; left -= PER) {
        while (!is_past(address(&shared.full[warp][ring.place]), ring.parity));
        Unit u[PER];
#pragma unroll
        for (int k = 0; k < PER; ++k) u[k].load(shared.ring[warp][ring.place][k], lane);
        float part[PER][2];
#pragma unroll
        for (int k = 0; k < PER; ++k) u[k].multiply(x + (unit + k) * UNIT_COLUMNS, of_token + (unit + k) * GROUPS * BATCH, part[k]);
#pragma unroll
        for (int k = 0; k < PER; ++k) total[0] += part[k][0], total[1] += part[k][1];
        // Everyone has read it, and has it: a copy does not wait for loads that are under way.
        __syncwarp();
        ring.fetch(ring.place);
        if (++ring.place == DEPTH) ring.place = 0, ring.parity ^= 1;
        unit += PER;
        if (unit == units || left == PER) {
            if ((lane & 3) < BATCH) slot[lane >> 2][lane & 3] = total[0], slot[(lane >> 2) + 8][lane & 3] = total[1];
            total[0] = total[1] = 0.f;
            unit = 0, slot += 16;
        }
    }
    __syncthreads();
    // Four lanes for each row: each adds up what a fourth of the warps have, and then has a token to give out.
    const int rows = phase == GATE_UP ? 8 : 16, all = run.tiles * rows, mine = threadIdx.x % 4;
#pragma unroll 1
    for (int base = 0; base < all; base += THREADS / 4) {
        const int i = base + threadIdx.x / 4, r = i % rows, of = i / rows;
        float y[BATCH] = {}, up[BATCH] = {};
#pragma unroll
        for (int k = 0; k < WARPS / 4; ++k) {
            const int w = 4 * k + mine;
            const Run part = shared.runs[phase][w];
            if (i < all && max(part.begin, of * units) < min(part.end, (of + 1) * units)) {
#pragma unroll
                for (int t = 0; t < BATCH; ++t) {
                    y[t] += shared.slots[of + w][r][t];
                    if (phase == GATE_UP) up[t] += shared.slots[of + w][r + 8][t];
                }
            }
        }
        float my_y = 0.f, my_up = 0.f;
#pragma unroll
        for (int t = 0; t < BATCH; ++t) {
#pragma unroll
            for (int o = 1; o < 4; o <<= 1) {
                y[t] += __shfl_xor_sync(~0u, y[t], o);
                if (phase == GATE_UP) up[t] += __shfl_xor_sync(~0u, up[t], o);
            }
            if (t == mine) my_y = y[t], my_up = up[t];
        }
        if (i < all && mine < BATCH) out(of, (run.first_tile + of) * 16 + r, r, mine, my_y, my_up);
    }
}

// A lane's columns of a head of q, k or v: plain.
__device__ __forceinline__ void load_head(const u16* from, float (&x)[EACH]) {
#pragma unroll
    for (int i = 0; i < EACH / 8; ++i) {
        const uint4 v = __ldcg((const uint4*)(from + 8 * i));
        const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const float2 a = widened(words[w]);
            x[8 * i + 2 * w] = a.x, x[8 * i + 2 * w + 1] = a.y;
        }
    }
}

// Normed where there is a norm [D], and turned by cos and sin [D].
__device__ __forceinline__ void load_turned(const u16* head, int part, const float* norm, float eps, const float* cos, const float* sin, float (&x)[EACH]) {
    const int column = part * EACH, turned = (column + D / 2) % D;
    float other[EACH];
    load_head(head + column, x);
    load_head(head + turned, other);
    turn(x, other, column, norm, eps, cos, sin);
}

// One piece of the context of one sequence, for the query heads of one key-value head.
struct Piece {
    int s, kv_head, piece, context, first, end, token, part;
    const char *keys, *values;
    const int* table;
    uint4 k[AHEAD], v[AHEAD];
    u32 at[AHEAD];  // where they lie, in steps of 16 bytes; ~0: nowhere

    __device__ __forceinline__ Piece(const Shared& shared, int item, const u64* layer, const int* tables, int table_width) {
        kv_head = item % KV_HEADS, s = item / KV_HEADS % BATCH, piece = item / KV_HEADS / BATCH;  // first pieces first
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, window = (int)layer[WINDOW];
        part = lane % LANES;
        context = piece < PIECES ? shared.contexts[s] : 0;
        const int start = window > 0 ? max(0, context - window) : 0, length = length_of_pieces(context);
        first = max(piece * length, start), end = min(context, (piece + 1) * length);
        token = first + warp * TOKENS + lane / LANES;
        keys = (const char*)layer[KEYS], values = (const char*)layer[VALUES];
        table = tables + (u64)s * table_width;
    }
    // Whether nobody will ask for it.
    __device__ __forceinline__ bool is_beyond() const { return piece * length_of_pieces(context) >= context; }
    // Those of the sequence's last token are not in the cache yet.
    __device__ __forceinline__ void find() {
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const int which = token + a * STRIDE;
            at[a] = which < end && which != context - 1
                        ? (((u32)__ldcg(table + which / BLOCK) * KV_HEADS + kv_head) * BLOCK + which % BLOCK) * LANES + part : ~0u;
        }
    }
    __device__ __forceinline__ void load(const char* cache, uint4 (&to)[AHEAD]) {
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) to[a] = at[a] != ~0u ? __ldcg((const uint4*)cache + at[a]) : uint4{};
    }
    __device__ __forceinline__ void attend(Shared& shared, const u64* layer, const u16* qkv,
                                           const long long* slots, u16* parts, float* weights, float scale, float eps) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        const u16* row = qkv + (u64)s * (HEADS + 2 * KV_HEADS) * D;
        float new_k[EACH], new_v[EACH], q[SHARING][EACH];
        load_turned(row + (HEADS + kv_head) * D, part, (const float*)layer[K_NORM], eps, shared.cos[s], shared.sin[s], new_k);
        load_head(row + (HEADS + KV_HEADS + kv_head) * D + part * EACH, new_v);
#pragma unroll
        for (int g = 0; g < SHARING; ++g) {
            load_turned(row + (kv_head * SHARING + g) * D, part, (const float*)layer[Q_NORM], eps, shared.cos[s], shared.sin[s], q[g]);
#pragma unroll
            for (int i = 0; i < EACH; ++i) q[g][i] = to_float(to_half(q[g][i]));
        }
        const uint4 kept_k = narrowed(new_k), kept_v = narrowed(new_v);
        const long long slot = __ldcg(slots + s);
        if (slot >= 0 && first <= context - 1 && context - 1 < end && warp == 0 && lane < LANES) {
            const u64 to = ((slot / BLOCK * KV_HEADS + kv_head) * BLOCK + slot % BLOCK) * LANES + part;
            ((uint4*)layer[KEYS])[to] = kept_k;
            ((uint4*)layer[VALUES])[to] = kept_v;
        }
        float best[SHARING], mass[SHARING] = {}, sums[SHARING][EACH] = {};
#pragma unroll
        for (int g = 0; g < SHARING; ++g) best[g] = -1e30f;
        const int mine = lane / LANES;
#pragma unroll 1
        while (token - mine - warp * TOKENS < end) {
            float score[SHARING][AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) {
                if (token + a * STRIDE == context - 1) k[a] = kept_k, v[a] = kept_v;
                float x[EACH];
                widen(k[a], x);
#pragma unroll
                for (int g = 0; g < SHARING; ++g) {
                    float sum = 0.f;
#pragma unroll
                    for (int i = 0; i < EACH; ++i) sum += x[i] * q[g][i];
#pragma unroll
                    for (int o = LANES / 2; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
                    score[g][a] = token + a * STRIDE < end ? sum * scale : __int_as_float(0xff800000);
                }
            }
            token += AHEAD * STRIDE;
            find(), load(keys, k);
#pragma unroll
            for (int g = 0; g < SHARING; ++g) {
                float now = best[g];
#pragma unroll
                for (int a = 0; a < AHEAD; ++a) now = fmaxf(now, score[g][a]);
                const float shrink = __expf(best[g] - now);
                best[g] = now, mass[g] *= shrink;
#pragma unroll
                for (int i = 0; i < EACH; ++i) sums[g][i] *= shrink;
            }
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) {
                float x[EACH];
                widen(v[a], x);
#pragma unroll
                for (int g = 0; g < SHARING; ++g) {
                    const float p = __expf(score[g][a] - best[g]);  // no number where the score is none
                    mass[g] += p;
#pragma unroll
                    for (int i = 0; i < EACH; ++i) sums[g][i] += p * x[i];
                }
            }
            load(values, v);
        }
#pragma unroll
        for (int g = 0; g < SHARING; ++g) {
            float top = best[g];
#pragma unroll
            for (int o = LANES; o < 32; o <<= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
            const float shrink = __expf(best[g] - top);
            float all = mass[g] * shrink;
#pragma unroll
            for (int o = LANES; o < 32; o <<= 1) all += __shfl_xor_sync(~0u, all, o);
            float* to = shared.results[warp][g];
            if (lane == 0) to[D] = top, to[D + 1] = all;
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                float y = sums[g][i] * shrink;
#pragma unroll
                for (int o = LANES; o < 32; o <<= 1) y += __shfl_xor_sync(~0u, y, o);
                if (lane < LANES) to[part * EACH + i] = y;
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < SHARING * D; i += THREADS) {
            const int g = i / D, c = i % D, head = kv_head * SHARING + g;
            float top = -1e30f, all = 0.f, y = 0.f;
#pragma unroll 4
            for (int w = 0; w < WARPS; ++w) top = fmaxf(top, shared.results[w][g][D]);
#pragma unroll 4
            for (int w = 0; w < WARPS; ++w) {
                const float share = __expf(shared.results[w][g][D] - top);
                all += share * shared.results[w][g][D + 1];
                y += share * shared.results[w][g][c];
            }
            const u64 at = (u64)(piece * BATCH + s) * HEADS + head;
            parts[at * D + c] = to_half(all != 0.f ? y / all : 0.f);
            if (c == 0) weights[at] = all != 0.f ? top + __logf(all) : __int_as_float(0xff800000);
        }
    }
};

// scratch: of float16 qkv [BATCH, (HEADS + 2 KV_HEADS) D], parts [PIECES, BATCH, HEADS, D], activated [BATCH, FFN]; of float32
// residual [BATCH, HIDDEN] and weights [PIECES, BATCH, HEADS]. cos, sin [BATCH, D]. out [BATCH, HIDDEN]: the normed stream, float32.
extern "C" __global__ void __launch_bounds__(THREADS, 1) whole_step(
    const u64* __restrict__ layers, const float* embedded, float* residual, u16* qkv, u16* parts, float* weights, u16* activated,
    float* out, const float* final_norm, const float* cos, const float* sin, const long long* slots, const int* tables,
    const int* context_lens, u32* counter, int table_width, float scale, float eps) {
    Shared& shared = *(Shared*)shared_memory();
    let_next_begin();
    for (int i = threadIdx.x; i < LAYERS * ENTRIES; i += THREADS) (&shared.layers[0][0])[i] = layers[i];
    if (threadIdx.x < 4 * WARPS) {
        const int phase = threadIdx.x / WARPS, warp = threadIdx.x % WARPS;
        const int first = first_tile_of(phase, blockIdx.x), tiles = first_tile_of(phase, blockIdx.x + 1) - first;
        const int share = tiles * units_of(phase);
        shared.runs[phase][warp] = Run{tiles, share * warp / WARPS / PER * PER, share * (warp + 1) / WARPS / PER * PER, first};
    }
    if (threadIdx.x < WARPS * DEPTH)
        begin_barrier(address(&shared.full[0][0] + threadIdx.x), 1);
    show_barriers();
    __syncthreads();
    Ring ring(shared);
    wait_for_last();
    // The counter's value before this step: block 0 leaves it here when all have arrived for the last time.
    Barrier barrier = {counter, __ldcg(counter + 1)};

    if (threadIdx.x < BATCH) shared.contexts[threadIdx.x] = __ldcg(context_lens + threadIdx.x);
    const int first_row = first_tile_of(O, blockIdx.x) * 16;
    for (int i = threadIdx.x; i < OWN_TILES * 16 * BATCH; i += THREADS) {
        const int row = first_row + i / BATCH;
        if (row < HIDDEN) (&shared.own[0][0][0])[i] = embedded[i % BATCH * HIDDEN + row];
    }

    for (int i = threadIdx.x; i < BATCH * D; i += THREADS)
        (&shared.cos[0][0])[i] = __ldcg(cos + i), (&shared.sin[0][0])[i] = __ldcg(sin + i);

    __syncthreads();
    // Where the first tokens are whose keys and values this thread needs, in every layer whose window is the first one's.
    Piece start(shared, blockIdx.x, shared.layers[0], tables, table_width);
    start.find();
    const int known_window = (int)shared.layers[0][WINDOW];
    u32 known[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; ++a) known[a] = start.at[a];

#pragma unroll 1
    for (int l = 0;; ++l) {
        const u64* layer = shared.layers[l];
#pragma unroll 1
        for (int phase = QKV; phase <= DOWN; ++phase) {
            if (phase == O)
                keep_attended(shared, parts, weights);
            else if (phase == DOWN)
                keep_activated(shared, activated);
            else {
                const bool is_last = l == LAYERS;
                const float* norm = is_last ? final_norm : (const float*)layer[phase == QKV ? NORM : AFTER_NORM];
                norm_rows(shared, l + phase ? residual : embedded, norm, eps, is_last ? out : nullptr);
                if (is_last) {
                    if (threadIdx.x == 0) counter[1] = barrier.target;
                    return;
                }
            }
            const float* bias = (const float*)layer[BIASES + phase];
            product(shared, ring, phase, [&](int of, int n, int r, int t, float y, float up) {
                if (n >= rows_of(phase)) return;
                if (bias) y += __ldg(bias + n);
                if (phase == QKV)
                    qkv[t * rows_of(QKV) + n] = to_half(y);
                else if (phase == GATE_UP) {
                    if (bias) up += __ldg(bias + n + 8);
                    activated[t * FFN + n / 16 * 8 + r] = to_half(__fdividef(y, 1.f + __expf(-y)) * up);
                } else
                    residual[t * HIDDEN + n] = shared.own[of][r][t] += y;
            });
            barrier.arrive();
            if (phase == QKV) {
                bool waited = false;
#pragma unroll 1
                for (int item = blockIdx.x; item < BATCH * KV_HEADS * PIECES; item += GRID) {
                    Piece piece(shared, item, layer, tables, table_width);
                    if (piece.is_beyond()) continue;
                    if (item != blockIdx.x || (int)layer[WINDOW] != known_window) piece.find();
                    else {
#pragma unroll
                        for (int a = 0; a < AHEAD; ++a) piece.at[a] = known[a];
                    }
                    piece.load(piece.keys, piece.k), piece.load(piece.values, piece.v);
                    if (waited) __syncthreads();  // the last item's results have been read
                    else barrier.wait();
                    waited = true;
                    piece.attend(shared, layer, qkv, slots, parts, weights, scale, eps);
                }
                if (!waited) barrier.wait();
                barrier.arrive();
            }
            if (l == LAYERS - 1 && phase == DOWN && blockIdx.x) return;
            barrier.wait();
        }
    }
}
