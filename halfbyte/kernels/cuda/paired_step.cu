// One token of each of BATCH <= 16 sequences through all blocks of a network: one kernel, thread blocks in pairs. With
// step.cuh before it.
//
// At such sizes a step is nothing but reading the weights once, and each product is so short (5 to 15 us) that what lies
// between two of them, the end of one and the beginning of the next, costs as much as the reading. Here a thread block
// stays on each multiprocessor for the whole step. Which weights it will need, in what order, is known from the start, and
// they are fetched into a ring in shared memory, as far ahead as it holds: over the ends of products, over the barriers
// between multiprocessors, over attention.
//
// A block of the network is five phases with a barrier of the grid behind each: qkv; attention; o; gate and up; down.
// Everything that one phase hands to the next goes through the second-level cache.
//
// Two neighbouring thread blocks, a pair (a cluster), share tiles of 16 rows: each multiplies half of the columns, and for
// every other tile sends its sums to its partner. A block's warps that multiply are a crew, or two that take turns: each warp
// has some chunks of the columns of all its crew's tiles, so that what it needs of x stays in its registers. Others serve
// them: one thread fetches weights, one warp watches the barrier of the grid, and four, the *givers*, add up the warps' sums
// and make of them what is given on. Who hands something to whom does so through places of their own, of which each has two
// barriers: a crew has its part of the ring, and each giver, who has every fourth tile, slots for sums.
//
// x is handed on as float16, in the order in which products take it (`place_of`), by those who make it: a hundred blocks
// that prepare the same x would take longer than the product. RMS norm's factor is not known yet then, but sums are linear
// in x: x is taken times the factor of the last norm, which keeps it in float16's range, and sums times what is missing.
//
// Compiled at run time with these set, beside those of step.cuh:
//   BATCH, LAYERS     the step's shape
//   BLOCK    tokens of a page
//   AHEAD    keys, and values, that a lane has on their way
//   TEAMS    of a block's warps, each of which attends to a piece
//   GRID (even), DEPTH (of a crew's ring), SHARED (bytes of shared memory)
//
// A chunk is as many units as make 256 columns, if every product has whole ones. A word has four columns of two rows; what
// is made of it is the first operand of one product of 16 x 16 by 16 x 8: for the lower eight rows its bytes as float16
// numbers, which are 1024 + q + 16 q' of both rows, for the upper ones 1024 + q. The difference of their sums is that of
// 16 q'; and 1024 times the sum of x is too much, which is taken off in float32: it leaves less of an error than x has from
// being float16. Scales come after that, for each group.

#define EIGHTS ((BATCH + 7) / 8)       // of tokens: columns of a product
// Of a tile a block has eight chunks at once, which are shared out to the warps of a crew; of few tokens a warp's registers
// hold what it needs of x for two chunks.
#define SPAN (EIGHTS == 1 ? 2 : 1)     // chunks of a warp
#define CHUNKS 8
#define CREW (CHUNKS / SPAN)           // warps
#define CREWS SPAN
#define WARPS 8                        // that multiply and attend
#define THREADS (32 * WARPS)
#define GIVERS 4              // warps
#define GIVER_THREADS (32 * GIVERS)
#define ALL_THREADS (THREADS + 256)
enum { FETCHER = THREADS + GIVER_THREADS, WATCHER = FETCHER + 32 };
// Registers of a thread that serves and of one that computes: together no more than the block was started with, which is the
// most that is a multiple of 8 for all threads; waiting for more would never end.
#define FEW_REGISTERS 80
#define MANY_REGISTERS 168
#define PAIRS (GRID / 2)
#define TOKENS_KEPT (8 * EIGHTS)
#define THEIRS_BYTES (32 * OF_GIVER * 4)
#define OF_GIVER (4 * EIGHTS)          // sums of a tile that a thread of a giver has: of one row
#define SLOTS (4 / EIGHTS / EIGHTS)    // of a giver, for the warps' sums of a tile
__device__ __forceinline__ int first_tile_of(int p, int pair) { return (u32)tiles_of(p) * pair / PAIRS; }

// Chunks
__host__ __device__ constexpr bool all_divide(int n) { return units_of(QKV) % n == 0 && units_of(O) % n == 0 && units_of(DOWN) % n == 0; }
constexpr int PER = GROUP < 128 && all_divide(4) ? 4 : all_divide(2) ? 2 : 1;  // units
constexpr int CHUNK = PER * UNIT_COLUMNS, CHUNK_BYTES = PER * UNIT_BYTES;
constexpr int UNITS = SPAN * PER, HALF = UNITS > 1 ? UNITS / 2 : 1;  // of a warp; what it fetches of them at once
__host__ __device__ constexpr int chunks_of(int p) { return units_of(p) / PER; }
__host__ __device__ constexpr int first_chunk_of(int p, int half) { return half ? (chunks_of(p) + 1) / 2 : 0; }  // 2: behind the last
__host__ __device__ constexpr int above_chunk_of(int p, int half) { return half ? chunks_of(p) : (chunks_of(p) + 1) / 2; }
// Times that a block multiplies some chunks of each tile; both of a pair as often, if only in name.
__host__ __device__ constexpr int rounds_of(int p) { return ((chunks_of(p) + 1) / 2 + CHUNKS - 1) / CHUNKS; }
__host__ __device__ constexpr int most_tiles_of(int p) { return (tiles_of(p) + PAIRS - 1) / PAIRS; }  // of a pair
__host__ __device__ constexpr int most_kept_of(int p) { return rounds_of(p) > 1 ? most_tiles_of(p) : 0; }
constexpr int MOST_TILES = most(most(most_tiles_of(QKV), most_tiles_of(O)), most(most_tiles_of(GATE_UP), most_tiles_of(DOWN)));
constexpr int MOST_OWN = (MOST_TILES + 1) / 2, OWN_TILES = (most_tiles_of(O) + 1) / 2;
constexpr int MOST_KEPT = most(1, most(most(most_kept_of(QKV), most_kept_of(O)), most(most_kept_of(GATE_UP), most_kept_of(DOWN))));
static_assert(MOST_OWN <= 32, "a giver remembers a bit for each");

// Attention
#define TEAM_WARPS (WARPS / TEAMS)
#define STRIDE (TEAM_WARPS * TOKENS)  // of a team: tokens at once
#define RESULT (D + 4)                // of a head: its numbers, the largest score, the sum of all weights

struct Shared {
    __align__(128) uint4 ring[CREWS][DEPTH][CHUNKS][CHUNK_BYTES / 16];
    union {
        __align__(16) float sums[GIVERS][SLOTS][CREW][16 * TOKENS_KEPT];  // see `keep_sums`
        __align__(16) float results[WARPS][SHARING][RESULT];
    };
    // Of each thread of a giver:
    __align__(16) float theirs[MOST_OWN][32][OF_GIVER];  // the partner's sums of this block's tiles
    __align__(16) float kept[MOST_KEPT][32][OF_GIVER];   // sums so far
    __align__(16) float own[OWN_TILES][32][OF_GIVER];    // the residual stream's rows that are this block's
    float bias[MOST_OWN][16], gain[OWN_TILES][16];  // of this block's rows: added; the next norm's weights
    float factors[TOKENS_KEPT], missing[TOKENS_KEPT];  // the last norm's factor of each token, and what its sums lack of it
    u64 layers[LAYERS][ENTRIES];
    float cos[BATCH][D], sin[BATCH][D];
    u64 full[CREWS][DEPTH], empty[CREWS][DEPTH];    // the ring's places: copied; read
    u64 summed[GIVERS][SLOTS], given[GIVERS][SLOTS];  // the slots: written; read
    u64 there[MOST_OWN];                       // `theirs`
    u64 go, factored;                          // the grid has met; there are new `factors`
    u32 known[AHEAD][THREADS];                 // where a thread's first tokens lie, see Piece
    long long slots[BATCH];
    int contexts[BATCH];
    int is_last[TEAMS];                        // see give_piece
};

static_assert(sizeof(Shared) <= SHARED, "paired_step.py counts otherwise");

// Two bytes of a word as float16 numbers, 1024 more.
__device__ __forceinline__ u32 bytes(u32 word, u32 which) { return __byte_perm(word, 0x64646464, which); }

__device__ __forceinline__ void wait_for(const u64& barrier, u32 parity) {
    while (!is_past(address(&barrier), parity));
}

__device__ __forceinline__ void arrive(const u64& barrier) { arrive_at(address(&barrier)); }

// An arrival, with bytes that are to be waited for too.
__device__ __forceinline__ void expect(const u64& barrier, u32 bytes) { expect_at(address(&barrier), bytes); }

// Where the nth goes in a ring of N, and what its barriers' parities are.
template <int N>
struct Place {
    u32 place, parity;
    __device__ __forceinline__ Place(u32 n) : place(n % N), parity(n / N & 1) {}
};

// Where a column of a token's x lies, in float16 numbers: a lane of a product takes 8 columns of a token at once.
__device__ __forceinline__ u32 place_of(int column, int token) {
    return ((column / 32 * EIGHTS + token / 8) * 32 + token % 8 * 4 + column % 32 / 8) * 8 + column % 8;
}

// Meetings of some of a block's threads: barriers 1 to 2 + TEAMS.
__device__ __forceinline__ void givers_meet() { meet_at(1, GIVER_THREADS); }
__device__ __forceinline__ void meet_team(int team) { meet_at(3 + team, 32 * TEAM_WARPS); }

// Each token's factor of RMS norm, from squares [BATCH, tiles], and what it is of the last one: a warp.
__device__ __forceinline__ void make_factors(Shared& shared, const float* squares, float eps, bool is_first) {
    constexpr int TOGETHER = BATCH < 4 ? BATCH : 4, EACH_LANE = (tiles_of(O) + 31) / 32;
    const int lane = thread() & 31;
#pragma unroll 1
    for (int t = 0; t < BATCH; t += TOGETHER) {
        float of[TOGETHER][EACH_LANE];
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i)
#pragma unroll
            for (int k = 0; k < EACH_LANE; ++k)
                of[i][k] = lane + 32 * k < tiles_of(O) && t + i < BATCH ? __ldcg(squares + (t + i) * tiles_of(O) + lane + 32 * k) : 0.f;
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            float sum = 0.f;
#pragma unroll
            for (int k = 0; k < EACH_LANE; ++k) sum += of[i][k];
#pragma unroll
            for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
            if (lane == 0 && t + i < BATCH) {
                const float r = rsqrtf(sum / HIDDEN + eps);
                shared.missing[t + i] = is_first ? 1.f : r / shared.factors[t + i], shared.factors[t + i] = r;
            }
        }
    }
    if (lane == 0) arrive(shared.factored);
}

// Let the block go on whenever all blocks have told, and make factors where there are new squares then: a warp. The counter
// only goes up, from step to step too: its value before a step lies behind it.
__device__ __forceinline__ void watch(Shared& shared, u32* counter, const float* squares, float eps) {
    u32 target = __ldcg(counter + 1);
#pragma unroll 1
    for (int i = 0; i < 2 + 5 * LAYERS; ++i) {
        target += GRID;
        while ((int)(load_acquired(counter) - target) < 0);
        if ((thread() & 31) == 0) arrive(shared.go);
        // After the beginning: qkv's x is there; qkv; what was attended; the stream behind o; `activated`; the stream behind down.
        if (i == 0 || (i > 1 && (i % 5 == 4 || i % 5 == 1))) make_factors(shared, squares, eps, i == 0);
    }
    if (blockIdx.x == 0 && (thread() & 31) == 0) counter[1] = target;
}

// Have all weights copied, in their order, one thread.
__device__ __forceinline__ void fetch_weights(Shared& shared) {
    const int half = blockIdx.x % 2, pair = blockIdx.x / 2;
    u32 counts[CREWS] = {};
#pragma unroll 1
    for (int l = 0; l < LAYERS; ++l)
#pragma unroll 1
        for (int phase = QKV; phase <= DOWN; ++phase) {
            const int first = first_tile_of(phase, pair), above = first_tile_of(phase, pair + 1);
            const char* weights = (const char*)shared.layers[l][WEIGHTS + phase];
#pragma unroll 1
            for (int round = 0, chunk = first_chunk_of(phase, half); round < rounds_of(phase); ++round, chunk += CHUNKS) {
                const int chunks = max(0, min(CHUNKS, above_chunk_of(phase, half) - chunk));
#pragma unroll 1
                for (int tile = first; tile < above; ++tile) {
                    const int crew = (tile - first) % CREWS;
                    const Place<DEPTH> to(crew ? counts[CREWS - 1]++ : counts[0]++);
                    wait_for(shared.empty[crew][to.place], to.parity ^ 1);  // a place is empty before anything was there
                    const u32 full = address(&shared.full[crew][to.place]), bytes = chunks * CHUNK_BYTES;
                    expect(shared.full[crew][to.place], bytes);
                    if (bytes)
                        copy(address(shared.ring[crew][to.place]), weights + (u64)(u32)(tile * chunks_of(phase) + chunk) * CHUNK_BYTES, bytes, full);
                }
            }
        }
}

// What a warp multiplies at once: half of its units of a tile.
struct Weights {
    uint4 words[HALF][STEPS];
    uint2 meta[HALF][GROUPS];
    __device__ __forceinline__ void load(const uint4* units, int lane) {
#pragma unroll
        for (int u = 0; u < HALF; ++u, units += UNIT_BYTES / 16) {
#pragma unroll
            for (int s = 0; s < STEPS; ++s) words[u][s] = units[32 * s + lane];
#pragma unroll
            for (int g = 0; g < GROUPS; ++g) meta[u][g] = ((const uint2*)(units + 32 * STEPS + 4 * g))[lane >> 2];
        }
    }
};

// A lane's part of a warp's chunks of x: 8 neighbouring columns of each 32, of tokens lane / 4 and, of more than eight,
// lane / 4 + 8.
struct X {
    uint4 parts[EIGHTS][SPAN * CHUNK / 32];
    float sums[SPAN * CHUNK / GROUP][EIGHTS][2];  // of groups, of tokens 8 e + 2 (lane % 4) and the next

    // As products with a weight of ones.
    __device__ __forceinline__ void add_up() {
        constexpr int ALL = SPAN * CHUNK / GROUP;
        float sum[ALL][EIGHTS][4] = {};
#pragma unroll
        for (int k = 0; k < GROUP / 16; ++k)
#pragma unroll
            for (int g = 0; g < ALL; ++g)
#pragma unroll
                for (int e = 0; e < EIGHTS; ++e) {
                    const u32 ones[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00};
                    const uint4 b = parts[e][g * (GROUP / 32) + k / 2];
                    multiply_add(sum[g][e], ones, k % 2 ? b.z : b.x, k % 2 ? b.w : b.y);
                }
#pragma unroll
        for (int g = 0; g < ALL; ++g)
#pragma unroll
            for (int e = 0; e < EIGHTS; ++e) sums[g][e][0] = sum[g][e][0], sums[g][e][1] = sum[g][e][1];
    }
    // Chunks from `chunk` on, `count` of them at most. contexts: null, or of those tokens that there are not it is 0: their x
    // is, too.
    __device__ __forceinline__ void load(const u16* x, int chunk, int count, const int* contexts) {
        const int lane = thread() & 31;
        const uint4* from = (const uint4*)x + (u32)chunk * (CHUNK / 32 * EIGHTS * 32) + lane;
#pragma unroll
        for (int e = 0; e < EIGHTS; ++e) {
            const int token = lane / 4 + 8 * e;
            const bool is_one = token < BATCH && (!contexts || contexts[token] > 0);
#pragma unroll
            for (int k = 0; k < SPAN * CHUNK / 32; ++k)
                if (is_one && k / (CHUNK / 32) < count) parts[e][k] = __ldcg(from + (k * EIGHTS + e) * 32);
        }
    }
    // The half of units from FIRST on. Added to total[e]: of rows lane / 4, twice, and lane / 4 + 8, twice, and of tokens 8 e + 2 (lane % 4) and the next.
    template <int FIRST>
    __device__ __forceinline__ void multiply(const Weights& w, float (&total)[EIGHTS][4]) const {
        // Chains of products that do not wait for each other, in turn.
        float all[HALF][2][EIGHTS][4] = {};  // of two groups, or of two halves of one
#pragma unroll
        for (int i = 0; i < 2 * STEPS; ++i)
#pragma unroll
            for (int c = 0; c < 2; ++c)
#pragma unroll
                for (int u = 0; u < HALF; ++u) {
                    const int step = STEPS == 2 ? c : 0, which = STEPS == 2 ? i : 2 * c + i;
                    const uint4 four = w.words[u][step];
                    const u32 word = which == 0 ? four.x : which == 1 ? four.y : which == 2 ? four.z : four.w;
                    const u32 left = bytes(word, 0x4240), right = bytes(word, 0x4341);  // the lower nibbles of a byte are the upper rows'
                    const u32 a[4] = {left & 0x640f640f, left, right & 0x640f640f, right};
#pragma unroll
                    for (int e = 0; e < EIGHTS; ++e) {
                        const uint4 b = parts[e][((FIRST + u) * STEPS + step) * 2 + which / 2];
                        multiply_add(all[u][c][e], a, which % 2 ? b.z : b.x, which % 2 ? b.w : b.y);
                    }
                }
#pragma unroll
        for (int u = 0; u < HALF; ++u)
#pragma unroll
            for (int g = 0; g < GROUPS; ++g) {
                const float2 upper = widened(w.meta[u][g].x), lower = widened(w.meta[u][g].y);  // scale; -(1024 + z), -(64 + z)
#pragma unroll
                for (int e = 0; e < EIGHTS; ++e)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const float x = sums[(FIRST + u) * GROUPS + g][e][i];
                        const float first = GROUPS == 2 ? all[u][g][e][i] : all[u][0][e][i] + all[u][1][e][i];
                        const float both = GROUPS == 2 ? all[u][g][e][i + 2] : all[u][0][e][i + 2] + all[u][1][e][i + 2];
                        total[e][i] += upper.x * (first + upper.y * x);
                        total[e][i + 2] += lower.x * ((both - first) * 0.0625f + (lower.y + 64.f) * x);
                    }
            }
    }
};

// A tile's sums in a slot: 16 rows of TOKENS_KEPT, where of sixteen the eights are exchanged in every other pair of rows, so
// that neither writing nor reading meets in a bank.
__device__ __forceinline__ int place_in_slot(int row, int token) {
    return row * TOKENS_KEPT + (EIGHTS == 2 ? token ^ (row >> 1 & 1) * 8 : token);
}

__device__ __forceinline__ void keep_sums(float* slot, const float (&total)[EIGHTS][4]) {
    const int lane = thread() & 31;
#pragma unroll
    for (int e = 0; e < EIGHTS; ++e)
#pragma unroll
        for (int r = 0; r < 2; ++r)
            *(float2*)(slot + place_in_slot(lane / 4 + 8 * r, 8 * e + 2 * (lane % 4))) = make_float2(total[e][2 * r], total[e][2 * r + 1]);
}

// A thread of a giver: what it has of each tile are OF_GIVER tokens of one row. Givers take turns at tiles.
struct Giver {
    Shared& shared;
    const int half, pair, which, at, row, token;
    u32 n, seen, met, factored;  // its tiles so far; of `there`, `go` and `factored`: parities that come next

    __device__ __forceinline__ Giver(Shared& s)
        : shared(s), half(blockIdx.x % 2), pair(blockIdx.x / 2), which((threadIdx.x - THREADS) / 32), at(threadIdx.x % 32), row(at / 2),
          token(at % 2 * OF_GIVER), n(0), seen(0), met(0), factored(0) {}
    // Whether a tile is its own to give: of both blocks' tiles.
    __device__ __forceinline__ bool has(int tile) const { return tile % GIVERS == which; }
    __device__ __forceinline__ void wait() { wait_for(shared.go, met), met ^= 1; }
    __device__ __forceinline__ void wait_for_factors() { wait_for(shared.factored, factored), factored ^= 1; }
    // Givers are done with a phase. (One tells for all: releasing what was written takes long, and longer at once.)
    __device__ __forceinline__ void tell(u32* counter) const {
        givers_meet();
        if (threadIdx.x == THREADS) add_released(counter);
    }
    // Squares of a tile of the stream, for all: x of this giver's tokens.
    __device__ __forceinline__ void give_squares(float (&x)[OF_GIVER], int tile, float* squares) const {
        // Tokens are shared out to lanes on the way: each time a lane keeps half of them.
        int first = token;
#pragma unroll
        for (int i = 0; i < OF_GIVER; ++i) x[i] *= x[i];
#pragma unroll
        for (int o = 2, many = OF_GIVER / 2; o < 32; o <<= 1) {
            if (many) {
                const bool is_upper = at & o;
#pragma unroll
                for (int i = 0; i < many; ++i) {
                    const float send = is_upper ? x[i] : x[i + many], keep = is_upper ? x[i + many] : x[i];
                    x[i] = keep + __shfl_xor_sync(~0u, send, o);
                }
                if (is_upper) first += many;
                many /= 2;
            } else
                x[0] += __shfl_xor_sync(~0u, x[0], o);
        }
        if (at < 2 * OF_GIVER && first < BATCH) squares[first * tiles_of(O) + tile] = x[0];
    }
    __device__ __forceinline__ int tiles_above(int phase) const { return first_tile_of(phase, pair + 1); }
    // The stream's part of own tile k, for the next product.
    __device__ __forceinline__ void give_stream(int k, int n, u16* x) const {
        u16* to = x + place_of(n, token);
        const float gain = shared.gain[k][row];
#pragma unroll
        for (int i = 0; i < OF_GIVER; ++i)
            if (token + i < BATCH) to[i * 32] = to_half(shared.own[k][at][i] * gain * shared.factors[token + i]);
    }
    // This block's rows of a vector of a product's rows.
    __device__ __forceinline__ void fetch_rows(const float* from, int phase, float (*to)[16]) const {
        const int first = first_tile_of(phase, pair), above = tiles_above(phase);
#pragma unroll 1
        for (int i = threadIdx.x - THREADS; first + i / 16 * 2 + half < above; i += GIVER_THREADS) {
            const int n = (first + i / 16 * 2 + half) * 16 + i % 16;
            to[i / 16][i % 16] = __ldg(from + n);
        }
    }
    __device__ __forceinline__ void sum(const float* slot, int chunks, float (&v)[OF_GIVER]) const {
        const float* from = slot + row * TOKENS_KEPT;
        const int turn = EIGHTS == 2 ? row >> 1 & 1 : 0;
#pragma unroll
        for (int i = 0; i < OF_GIVER; ++i) v[i] = 0.f;
#pragma unroll
        for (int w = 0; w < CREW; ++w, from += 16 * TOKENS_KEPT)
            if (w * SPAN < chunks)
#pragma unroll
                for (int i = 0; i < EIGHTS; ++i) {  // of its two fours half of the threads take the other one first: other banks
                    const float4 a = *(const float4*)(from + (turn * 8 ^ (token + 4 * (i ^ turn))));
                    v[4 * i] += a.x, v[4 * i + 1] += a.y, v[4 * i + 2] += a.z, v[4 * i + 3] += a.w;
                }
        if (turn)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float first = v[i];
                v[i] = v[(i + 4) % OF_GIVER], v[(i + 4) % OF_GIVER] = first;
            }
    }
    // Sums of a tile that is the partner's. (They report to its barrier by themselves: an arrival that releases them would
    // wait for all that was written to memory before.)
    __device__ __forceinline__ void send(int k, const float (&v)[OF_GIVER]) const {
        const u32 to = address_in(address(shared.theirs[k][at]), half ^ 1), barrier = address_in(address(&shared.there[k]), half ^ 1);
#pragma unroll
        for (int i = 0; i < OF_GIVER; i += 4) ::send(to + 4 * i, v[i], v[i + 1], v[i + 2], v[i + 3], barrier);
    }
    __device__ __forceinline__ void add_theirs(int k, float (&v)[OF_GIVER]) {
        wait_for(shared.there[k], seen >> k & 1);
        seen ^= 1u << k;
#pragma unroll
        for (int i = 0; i < OF_GIVER; ++i) v[i] += shared.theirs[k][at][i];
        __syncwarp();
        if (at == 0) expect(shared.there[k], THEIRS_BYTES);
    }
};

// What the givers' threads do all the time: `out(phase, k, tile, v)` takes the sums v of own tile k.
template <typename Out>
__device__ __forceinline__ void give_tiles(Giver& giver, int phase, Out out) {
    Shared& shared = giver.shared;
    const int first = first_tile_of(phase, giver.pair), tiles = giver.tiles_above(phase) - first;
    int chunks = above_chunk_of(phase, giver.half) - first_chunk_of(phase, giver.half), pending = -1;
    float mine[OF_GIVER] = {};
    // A block gives what is its own one tile later, when the partner's sums are likely there.
    auto give = [&] {
        if (pending < 0) return;
        giver.add_theirs(pending / 2, mine);
        out(pending / 2, first + pending, mine);
        pending = -1;
    };
#pragma unroll 1
    for (int round = 0; round < rounds_of(phase); ++round, chunks -= CHUNKS)
#pragma unroll 1
        for (int tile = giver.which; tile < tiles; tile += GIVERS, ++giver.n) {
            const Place<SLOTS> slot(giver.n);
            float v[OF_GIVER];
            wait_for(shared.summed[giver.which][slot.place], slot.parity);
            giver.sum(shared.sums[giver.which][slot.place][0], chunks, v);
            __syncwarp();
            if (giver.at == 0) arrive(shared.given[giver.which][slot.place]);
            if (rounds_of(phase) > 1) {
                float(&kept)[OF_GIVER] = shared.kept[tile][giver.at];
#pragma unroll
                for (int i = 0; i < OF_GIVER; ++i) {
                    if (round) v[i] += kept[i];
                    kept[i] = v[i];
                }
                if (round < rounds_of(phase) - 1) continue;
            }
            if (tile % 2 != giver.half) {
                giver.send(tile / 2, v);
                give();
            } else {
                give();
                pending = tile;
#pragma unroll
                for (int i = 0; i < OF_GIVER; ++i) mine[i] = v[i];
            }
        }
    give();
}

// A lane's columns of a head of q, k or v.
struct Part {
    uint4 raw[EACH / 8];
    __device__ __forceinline__ void load(const u16* from) {
#pragma unroll
        for (int i = 0; i < EACH / 8; ++i) raw[i] = __ldcg((const uint4*)(from + 8 * i));
    }
    __device__ __forceinline__ void widen_to(float (&x)[EACH]) const {
#pragma unroll
        for (int i = 0; i < EACH / 8; ++i) widened(raw[i], x + 8 * i);
    }
};

// Of a head that is normed where there is a norm [D], and turned by cos and sin [D].
struct TurnedPart {
    Part plain, other;
    __device__ __forceinline__ void load(const u16* head, int column) {
        plain.load(head + column), other.load(head + (column + D / 2) % D);
    }
    __device__ __forceinline__ void turn(int column, const float* norm, float eps, const float* cos, const float* sin, float (&x)[EACH]) const {
        float turned[EACH];
        plain.widen_to(x), other.widen_to(turned);
        ::turn(x, turned, column, norm, eps, cos, sin);
    }
};

// One piece of the context of one sequence, for the query heads of one key-value head: a team's.
struct Piece {
    int s, kv_head, piece, context, first, end, part;
    const char *keys, *values;
    const int* table;

    __device__ __forceinline__ Piece(const Shared& shared, int item, const u64* layer, const int* tables, int table_width) {
        kv_head = item % KV_HEADS, s = item / KV_HEADS % BATCH, piece = item / KV_HEADS / BATCH;  // first pieces first
        const int window = (int)layer[WINDOW];
        part = (thread() & 31) % LANES;
        context = piece < PIECES ? shared.contexts[s] : 0;
        const int start = window > 0 ? max(0, context - window) : 0, length = length_of_pieces(context);
        first = max(piece * length, start), end = min(context, (piece + 1) * length);
        keys = (const char*)layer[KEYS], values = (const char*)layer[VALUES];
        table = tables + (u64)s * table_width;
    }
    // Whether nobody will ask for it.
    __device__ __forceinline__ bool is_beyond() const { return piece * length_of_pieces(context) >= context; }
    // The first of this lane's tokens.
    __device__ __forceinline__ int token() const { return first + (thread() >> 5) % TEAM_WARPS * TOKENS + (thread() & 31) / LANES; }
    // Where those of tokens from `token` on lie, in steps of 16 bytes; ~0: nowhere, as those of the sequence's last token, which
    // are not in the cache yet.
    __device__ __forceinline__ void find(int token, u32 (&at)[AHEAD]) const {
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const int which = token + a * STRIDE;
            at[a] = which < end && which != context - 1
                        ? (((u32)__ldcg(table + which / BLOCK) * KV_HEADS + kv_head) * BLOCK + which % BLOCK) * LANES + part : ~0u;
        }
    }
};

__device__ __forceinline__ void load(const char* cache, const u32 (&at)[AHEAD], uint4 (&to)[AHEAD]) {
#pragma unroll
    for (int a = 0; a < AHEAD; ++a) to[a] = at[a] != ~0u ? __ldcg((const uint4*)cache + at[a]) : uint4{};
}

// What the query heads of one key-value head see, in a lane's tokens and columns.
struct Seen {
    float best[SHARING], mass[SHARING], sums[SHARING][EACH];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int g = 0; g < SHARING; ++g) {
            best[g] = -1e30f, mass[g] = 0.f;
#pragma unroll
            for (int i = 0; i < EACH; ++i) sums[g][i] = 0.f;
        }
    }
    // Of the AHEAD tokens from `token` on, those that lie before `end`. score: their weights, by the best so far.
    __device__ __forceinline__ void look(const float (&q)[SHARING][EACH], const uint4 (&k)[AHEAD], int token, int end, float scale, float (&score)[SHARING][AHEAD]) {
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
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
#pragma unroll
        for (int g = 0; g < SHARING; ++g) {
            float now = best[g];
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) now = fmaxf(now, score[g][a]);
            const float shrink = __expf(best[g] - now);
            best[g] = now, mass[g] *= shrink;
#pragma unroll
            for (int i = 0; i < EACH; ++i) sums[g][i] *= shrink;
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) score[g][a] = __expf(score[g][a] - now), mass[g] += score[g][a];  // no number where it is none
        }
    }
    __device__ __forceinline__ void add(const uint4 (&v)[AHEAD], const float (&weight)[SHARING][AHEAD]) {
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            float x[EACH];
            widen(v[a], x);
#pragma unroll
            for (int g = 0; g < SHARING; ++g)
#pragma unroll
                for (int i = 0; i < EACH; ++i) sums[g][i] += weight[g][a] * x[i];
        }
    }
    // This warp's, for its team.
    __device__ __forceinline__ void leave(float (*results)[RESULT]) const {
        const int lane = thread() & 31;
#pragma unroll
        for (int g = 0; g < SHARING; ++g) {
            float top = best[g];
#pragma unroll
            for (int o = LANES; o < 32; o <<= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
            const float shrink = __expf(best[g] - top);
            float all = mass[g] * shrink;
#pragma unroll
            for (int o = LANES; o < 32; o <<= 1) all += __shfl_xor_sync(~0u, all, o);
            if (lane == 0) results[g][D] = top, results[g][D + 1] = all;
#pragma unroll
            for (int i = 0; i < EACH; i += 4) {
                float y[4];
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    y[k] = sums[g][i + k] * shrink;
#pragma unroll
                    for (int o = LANES; o < 32; o <<= 1) y[k] += __shfl_xor_sync(~0u, y[k], o);
                }
                if (lane < LANES) *(float4*)(results[g] + lane * EACH + i) = make_float4(y[0], y[1], y[2], y[3]);
            }
        }
    }
};

// Between the blocks, in memory: x in the order of `place_of` of the stream (HIDDEN), of what was attended (HEADS D) and of
// `activated` (FFN); qkv [BATCH, (HEADS + 2 KV_HEADS) D]; of pieces of contexts parts [PIECES, BATCH, HEADS, D], of weights
// exp([PIECES, BATCH, HEADS]), and how many there are [BATCH, KV_HEADS], which are zeros in the end; squares [BATCH, tiles].
struct Between {
    u16 *stream, *attended, *activated, *qkv;
    float *parts, *weights, *squares;
    u32* counts;
};

// What a team's warps have left, put together; and where a context is in pieces, these, by the team that is done last.
__device__ __forceinline__ void give_piece(Shared& shared, const Piece& p, const Between& between) {
    const int team = thread() / (32 * TEAM_WARPS), length = length_of_pieces(p.context), pieces = (p.context + length - 1) / length;
    const float(*result)[SHARING][RESULT] = shared.results + team * TEAM_WARPS;
    const u32 first = (p.s * HEADS + p.kv_head * SHARING) * D;  // in a piece's parts
#pragma unroll 1
    for (int i = thread() % (32 * TEAM_WARPS); i < SHARING * D; i += 32 * TEAM_WARPS) {
        const int g = i / D, c = i % D;
        float top = -1e30f, all = 0.f, y = 0.f;
#pragma unroll
        for (int w = 0; w < TEAM_WARPS; ++w) top = fmaxf(top, result[w][g][D]);
#pragma unroll
        for (int w = 0; w < TEAM_WARPS; ++w) {
            const float share = __expf(result[w][g][D] - top);
            all += share * result[w][g][D + 1];
            y += share * result[w][g][c];
        }
        y = all != 0.f ? y / all : 0.f;
        if (pieces == 1) between.attended[place_of(p.kv_head * SHARING * D + i, p.s)] = to_half(y);
        else {
            const u32 to = p.piece * (BATCH * HEADS * D) + first + i;
            between.parts[to] = y;
            if (c == 0) between.weights[to / D] = all != 0.f ? top + __logf(all) : __int_as_float(0xff800000);
        }
    }
    if (pieces == 1) return;
    __threadfence();
    meet_team(team);
    if (thread() % (32 * TEAM_WARPS) == 0) {
        u32* count = between.counts + p.s * KV_HEADS + p.kv_head;
        const u32 before = add_and_get(count);
        shared.is_last[team] = before == pieces - 1;
        if (before == pieces - 1) *count = 0;
    }
    meet_team(team);
    if (!shared.is_last[team]) return;
#pragma unroll 1
    for (int i = thread() % (32 * TEAM_WARPS); i < SHARING * D; i += 32 * TEAM_WARPS) {
        float top = -1e30f, all = 0.f, y = 0.f;
#pragma unroll 4
        for (int piece = 0; piece < pieces; ++piece) top = fmaxf(top, __ldcg(between.weights + (piece * (BATCH * HEADS * D) + first + i) / D));
#pragma unroll 4
        for (int piece = 0; piece < pieces; ++piece) {
            const u32 from = piece * (BATCH * HEADS * D) + first + i;
            const float share = __expf(__ldcg(between.weights + from / D) - top);
            all += share, y += share * __ldcg(between.parts + from);
        }
        between.attended[place_of(p.kv_head * SHARING * D + i, p.s)] = to_half(all != 0.f ? y / all : 0.f);
    }
}

// `f(k, tile)` with each tile of the stream that is this giver's, the block's kth.
template <typename F>
__device__ __forceinline__ void each_own(const Giver& giver, F f) {
    for (int tile = first_tile_of(O, giver.pair) + giver.half, k = 0; tile < giver.tiles_above(O); tile += 2, ++k)
        if (giver.has(2 * k)) f(k, tile);
}

// The sums of a giver's tiles, which one crew makes: how many there have been, of each giver a byte.
struct Slots {
    u32 counts;
    __device__ __forceinline__ Place<SLOTS> next(int giver) {
        const u32 count = counts >> 8 * giver & 0xff;
        counts ^= (count ^ (count + 1 & 0xff)) << 8 * giver;
        return Place<SLOTS>(count);
    }
};

// What a crew multiplies in a phase: `load(x, chunk, count)` x of a warp's chunks, in each round; n: tiles so far.
template <typename Load>
__device__ __forceinline__ void multiply_tiles(Shared& shared, int phase, u32& n, Slots& slots, Load load) {
    const int pair = blockIdx.x / 2, tiles = first_tile_of(phase, pair + 1) - first_tile_of(phase, pair);
#pragma unroll 1
    for (int round = 0; round < rounds_of(phase); ++round) {
        const int lane = thread() & 31, crew = thread() / 32 / CREW, warp = thread() / 32 % CREW;
        const int chunk = first_chunk_of(phase, blockIdx.x % 2) + round * CHUNKS + warp * SPAN;
        const int count = above_chunk_of(phase, blockIdx.x % 2) - chunk;
        X x = {};  // said to be nothing, what one way through the loop does not set takes no registers elsewhere
        Weights first = {}, second = {};
        auto place = [&](u32 n) { return shared.ring[crew][Place<DEPTH>(n).place][warp * SPAN]; };
        auto is_copied = [&] { const Place<DEPTH> at(n); return is_past(address(&shared.full[crew][at.place]), at.parity); };
        if (crew < tiles) {
            while (!is_copied());
            if (count > 0) first.load(place(n), lane);
        }
        load(round, x, chunk, count);
#pragma unroll 1
        for (int tile = crew; tile < tiles; tile += CREWS) {
            float total[EIGHTS][4] = {};
            const bool has_second = UNITS > 1 && count >= SPAN, has_next = tile + CREWS < tiles;
            if (has_second) second.load(place(n) + HALF * (UNIT_BYTES / 16), lane);
            if (count > 0) x.multiply<0>(first, total);
            const u32 read = Place<DEPTH>(n++).place;
            bool is_early = has_next && __all_sync(~0u, is_copied());
            if (is_early && count > 0) first.load(place(n), lane);
            if (has_second) x.multiply<UNITS - HALF>(second, total);
            // Everyone has read it, and has it: an arrival does not wait for loads that are under way, and the next copy
            // was seen to overtake them.
            __syncwarp();
            if (lane == 0) arrive(shared.empty[crew][read]);
            const int giver = tile % GIVERS;
            const Place<SLOTS> slot = slots.next(giver);
            wait_for(shared.given[giver][slot.place], slot.parity ^ 1);
            if (count > 0) keep_sums(shared.sums[giver][slot.place][warp], total);
            __syncwarp();
            if (lane == 0) arrive(shared.summed[giver][slot.place]);
            if (has_next && !is_early) {
                while (!is_copied());
                if (count > 0) first.load(place(n), lane);
            }
        }
    }
}

// Attention to one token of each sequence, by the warps that compute; they leave when it is all there.
__device__ __forceinline__ void attend(Shared& shared, const u64* layer, const Between& between, const int* tables, int table_width,
                                       float scale, float eps, u32& met) {
    const int warp = thread() >> 5, lane = thread() & 31;
    bool waited = false;
#pragma unroll 1
    for (int item = blockIdx.x + GRID * (warp / TEAM_WARPS); item < BATCH * KV_HEADS * PIECES; item += GRID * TEAMS) {
        const Piece piece(shared, item, layer, tables, table_width);
        if (piece.is_beyond()) continue;
        u32 at[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) at[a] = shared.known[a][thread()];
        if (item >= GRID * TEAMS || layer[WINDOW] != shared.layers[0][WINDOW]) piece.find(piece.token(), at);
        int token = piece.token();
        Seen seen;
        float q[SHARING][EACH];
        uint4 k[AHEAD], v[AHEAD];
        load(piece.keys, at, k), load(piece.values, at, v);
        piece.find(token + AHEAD * STRIDE, at);
        seen.clear();
        if (waited) meet_team(warp / TEAM_WARPS);  // the last item's results have been read
        else wait_for(shared.go, met);
        waited = true;
        uint4 new_k, new_v;
        {
            const int column = piece.part * EACH;
            const u16* row = between.qkv + (u64)piece.s * (HEADS + 2 * KV_HEADS) * D;
            TurnedPart raw_q[SHARING], raw_k;
            Part raw_v;
            raw_k.load(row + (HEADS + piece.kv_head) * D, column);
#pragma unroll
            for (int g = 0; g < SHARING; ++g) raw_q[g].load(row + (piece.kv_head * SHARING + g) * D, column);
            raw_v.load(row + (HEADS + KV_HEADS + piece.kv_head) * D + column);
            const float *c = shared.cos[piece.s], *s = shared.sin[piece.s];
            float x[EACH];
            raw_k.turn(column, (const float*)layer[K_NORM], eps, c, s, x);
            new_k = narrowed(x);
            raw_v.widen_to(x);
            new_v = narrowed(x);
#pragma unroll
            for (int g = 0; g < SHARING; ++g) {
                raw_q[g].turn(column, (const float*)layer[Q_NORM], eps, c, s, q[g]);
#pragma unroll
                for (int i = 0; i < EACH; ++i) q[g][i] = to_float(to_half(q[g][i]));
            }
            const long long slot = shared.slots[piece.s];
            if (slot >= 0 && piece.first < piece.context && piece.context <= piece.end && warp % TEAM_WARPS == 0 && lane < LANES) {
                const u64 to = ((slot / BLOCK * KV_HEADS + piece.kv_head) * BLOCK + slot % BLOCK) * LANES + lane;
                ((uint4*)layer[KEYS])[to] = new_k, ((uint4*)layer[VALUES])[to] = new_v;
            }
        }
#pragma unroll 1
        for (int begin = piece.first; begin < piece.end; begin += AHEAD * STRIDE) {
            float weight[SHARING][AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; ++a)
                if (token + a * STRIDE == piece.context - 1) k[a] = new_k, v[a] = new_v;
            seen.look(q, k, token, piece.end, scale, weight);
            load(piece.keys, at, k);
            seen.add(v, weight);
            load(piece.values, at, v);
            token += AHEAD * STRIDE;
            piece.find(token + AHEAD * STRIDE, at);
        }
        seen.leave(shared.results[warp]);
        meet_team(warp / TEAM_WARPS);
        give_piece(shared, piece, between);
    }
    if (!waited) wait_for(shared.go, met);
    met ^= 1;
}

// scratch: see Between. cos, sin [BATCH, D]. embedded and out [BATCH, HIDDEN]; out: the normed stream, float32.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(ALL_THREADS, 1) paired_step(
    const u64* __restrict__ layers, const float* embedded, u16* stream, u16* attended, u16* activated, u16* qkv, float* parts,
    float* weights, float* squares, u32* counts, float* out, const float* final_norm, const float* cos, const float* sin, const long long* new_slots, const int* tables,
    const int* context_lens, u32* counter, int table_width, float scale, float eps) {
    Shared& shared = *(Shared*)shared_memory();
    const Between between = {stream, attended, activated, qkv, parts, weights, squares, counts};
    let_next_begin();
    for (int i = thread(); i < LAYERS * ENTRIES; i += ALL_THREADS) (&shared.layers[0][0])[i] = layers[i];
    if (thread() < TOKENS_KEPT) shared.factors[thread()] = 1.f;
    if (thread() == 0) {
        auto begin = [](u64& barrier, u32 count) { begin_barrier(address(&barrier), count); };
        for (int i = 0; i < CREWS * DEPTH; ++i) begin(shared.full[0][i], 1), begin(shared.empty[0][i], CREW);
        for (int i = 0; i < GIVERS * SLOTS; ++i) begin(shared.summed[0][i], CREW), begin(shared.given[0][i], 1);
        for (int i = 0; i < MOST_OWN; ++i) begin(shared.there[i], 1), expect(shared.there[i], THEIRS_BYTES);
        begin(shared.go, 1), begin(shared.factored, 1);
    }
    show_barriers();
    meet_cluster();

    if (threadIdx.x >= THREADS) {
        leave_registers<FEW_REGISTERS>();
        if (threadIdx.x >= FETCHER) {
            if (threadIdx.x == FETCHER) fetch_weights(shared);
            if (threadIdx.x / 32 == WATCHER / 32) {
                wait_for_last();
                watch(shared, counter, squares, eps);
            }
            return;
        }
        wait_for_last();
        Giver giver(shared);
        each_own(giver, [&](int k, int tile) {
            float x[OF_GIVER];
#pragma unroll
            for (int i = 0; i < OF_GIVER; ++i)
                x[i] = shared.own[k][giver.at][i] = giver.token + i < BATCH ? __ldcg(embedded + (giver.token + i) * HIDDEN + tile * 16 + giver.row) : 0.f;
            giver.give_squares(x, tile, squares);
        });
        giver.fetch_rows((const float*)shared.layers[0][NORM], O, shared.gain);
        giver.tell(counter);
        giver.wait();
        giver.wait_for_factors();
        givers_meet();
        each_own(giver, [&](int k, int tile) { giver.give_stream(k, tile * 16 + giver.row, stream); });
        meet_at(2, THREADS + GIVER_THREADS);  // those who compute have seen the first meeting
        giver.tell(counter);
#pragma unroll 1
        for (int l = 0; l < LAYERS; ++l) {
            const u64* layer = shared.layers[l];
#pragma unroll 1
            for (int phase = QKV; phase <= DOWN; ++phase) {
                const bool is_last = l == LAYERS - 1 && phase == DOWN, has_bias = layer[BIASES + phase];
                giver.wait();
                if (has_bias) giver.fetch_rows((const float*)layer[BIASES + phase], phase, shared.bias);
                // What the next phase needs is fetched while there are no sums yet.
                if (phase == QKV || phase == GATE_UP)
                    giver.fetch_rows(phase == QKV ? (const float*)layer[AFTER_NORM] : l < LAYERS - 1 ? (const float*)layer[ENTRIES + NORM] : final_norm, O, shared.gain);
                givers_meet();
                bool is_normed = phase == GATE_UP || (phase == QKV && l);  // what was normed first lacks nothing
                give_tiles(giver, phase, [&](int k, int tile, float (&v)[OF_GIVER]) {
                    const int n = tile * 16 + giver.row;
                    if (is_normed) giver.wait_for_factors(), is_normed = false;
                    if (phase == QKV || phase == GATE_UP)
#pragma unroll
                        for (int i = 0; i < OF_GIVER; ++i) v[i] *= shared.missing[giver.token + i];
                    if (has_bias)
#pragma unroll
                        for (int i = 0; i < OF_GIVER; ++i) v[i] += shared.bias[k][giver.row];
                    if (phase == QKV) {
#pragma unroll
                        for (int i = 0; i < OF_GIVER; ++i)
                            if (giver.token + i < BATCH) qkv[(giver.token + i) * rows_of(QKV) + n] = to_half(v[i]);
                    } else if (phase == GATE_UP) {
                        // Of 16 rows the first 8 are gate's, the others the `up` that belong to them.
                        u16* to = activated + place_of(tile * 8 + giver.row % 8, giver.token);
#pragma unroll
                        for (int i = 0; i < OF_GIVER; ++i) {
                            const float up = __shfl_down_sync(~0u, v[i], 16);
                            if (giver.row < 8 && giver.token + i < BATCH) to[i * 32] = to_half(__fdividef(v[i], 1.f + __expf(-v[i])) * up);
                        }
                    } else {
#pragma unroll
                        for (int i = 0; i < OF_GIVER; ++i) v[i] = shared.own[k][giver.at][i] += v[i];
                        if (!is_last) giver.give_stream(k, n, stream);
                        giver.give_squares(v, tile, squares);
                    }
                });
                if (is_normed) giver.wait_for_factors();  // it had no tile
                giver.tell(counter);
                if (phase == QKV) {
                    giver.wait();
                    pass_by(2, THREADS + GIVER_THREADS);
                }
            }
        }
        giver.wait();
        giver.wait_for_factors();
        each_own(giver, [&](int k, int tile) {
            const float gain = shared.gain[k][giver.row];
#pragma unroll
            for (int i = 0; i < OF_GIVER; ++i)
                if (giver.token + i < BATCH)
                    out[(giver.token + i) * HIDDEN + tile * 16 + giver.row] = shared.own[k][giver.at][i] * shared.factors[giver.token + i] * gain;
        });
        return;
    }

    take_registers<MANY_REGISTERS>();
    wait_for_last();
    if (thread() < BATCH) shared.contexts[thread()] = __ldcg(context_lens + thread()), shared.slots[thread()] = __ldcg(new_slots + thread());
    for (int i = thread(); i < BATCH * D; i += THREADS)
        (&shared.cos[0][0])[i] = __ldcg(cos + i), (&shared.sin[0][0])[i] = __ldcg(sin + i);
    meet_at(3, THREADS);
    // Where the first tokens are whose keys and values this thread needs, in every layer whose window is the first one's.
    {
        const Piece start(shared, blockIdx.x + GRID * (thread() / (32 * TEAM_WARPS)), shared.layers[0], tables, table_width);
        u32 at[AHEAD];
        start.find(start.token(), at);
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) shared.known[a][thread()] = at[a];
    }
    u32 met = 0;
    wait_for(shared.go, met), met ^= 1;
    pass_by(2, THREADS + GIVER_THREADS);

    u32 n = 0;
    Slots slots = {};
#pragma unroll 1
    for (int l = 0; l < LAYERS; ++l) {
        const u64* layer = shared.layers[l];
#pragma unroll 1
        for (int phase = QKV; phase <= DOWN; ++phase) {
            multiply_tiles(shared, phase, n, slots, [&](int round, X& x, int chunk, int count) {
                if (round == 0) wait_for(shared.go, met), met ^= 1;
                x.load(phase == O ? attended : phase == DOWN ? activated : stream, chunk, count, phase == O ? shared.contexts : nullptr);
                x.add_up();
            });
            if (phase == QKV) {
                attend(shared, layer, between, tables, table_width, scale, eps, met);
                meet_at(2, THREADS + GIVER_THREADS);
                if (thread() == 0) add_released(counter);
            }
        }
    }
}
