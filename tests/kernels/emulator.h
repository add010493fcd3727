// CUDA enough, on a CPU, for the kernels of a whole step: what ptx.cuh has, and CUDA's own words that they use.
//
// Threads are fibers of one thread of the operating system, which are run in an order that a seed shuffles anew in every round;
// they give way where they wait for others. Copies and sums that are sent to another block arrive some rounds later, in any
// order. So a meeting that is missing shows itself, sooner or later.
//
// Compiled with KERNEL (its name) and the kernel's own defines, before step.cuh and the kernel.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) alignas(n)

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct int2 { int x, y; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

template <typename To, typename From>
To bits_of(From x) {
    static_assert(sizeof(To) == sizeof(From), "");
    To r;
    memcpy(&r, &x, sizeof r);
    return r;
}
inline float __int_as_float(int x) { return bits_of<float>(x); }
inline float __uint_as_float(u32 x) { return bits_of<float>(x); }
inline u32 __float_as_uint(float x) { return bits_of<u32>(x); }
inline int __float_as_int(float x) { return bits_of<int>(x); }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline u32 max(u32 a, u32 b) { return a > b ? a : b; }
inline u32 min(u32 a, u32 b) { return a < b ? a : b; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline u32 __byte_perm(u32 a, u32 b, u32 which) {
    const u64 all = (u64)b << 32 | a;
    u32 r = 0;
    for (int i = 0; i < 4; ++i) r |= (u32)(all >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += (int)(signed char)(a >> 8 * i) * (int)(signed char)(b >> 8 * i);
    return c;
}
template <typename T>
T __ldcg(const T* p) { return *p; }
template <typename T>
T __ldg(const T* p) { return *p; }

// Threads

struct Dim { u32 x; };
struct Warp {
    int arrived = 0, alive = 32;
    u64 generation = 0;
    u32 slots[32][6];
};
struct Meeting { int arrived = 0; u64 generation = 0; };
struct Block {
    std::vector<Warp> warps;
    Meeting meetings[17];  // the last one: all threads
};
struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Dim thread, block;
    Block* own;
    Warp* warp;
    bool done = false;
};
struct MemoryBarrier { int count, pending, bytes; u64 phase; };
struct Late { int rounds; std::function<void()> land; };

static std::vector<std::unique_ptr<Fiber>> fibers;
static Fiber* now;
static ucontext_t scheduler;
static std::vector<Block> blocks;
static Meeting clusters[256];
static std::unordered_map<u32, MemoryBarrier> barriers;
static std::vector<Late> late;
static std::mt19937 chance;
static char* shared_memories;
static u32 shared_stride, all_threads;
static bool is_broken;  // more arrived than a barrier waits for

#define threadIdx (now->thread)
#define blockIdx (now->block)

inline void give_way() { swapcontext(&now->context, &scheduler); }

inline void meet(Meeting& m, int threads) {
    const u64 generation = m.generation;
    if (++m.arrived == threads) m.arrived = 0, ++m.generation;
    while (m.generation == generation) give_way();
}

inline void meet_warp() {
    Warp& w = *now->warp;
    const u64 generation = w.generation;
    if (++w.arrived == w.alive) w.arrived = 0, ++w.generation;
    while (w.generation == generation) give_way();
}
inline void __syncwarp() { meet_warp(); }
inline void __syncthreads() { meet(now->own->meetings[16], all_threads); }
inline void __threadfence() {}

template <typename T>
T exchanged(T x, int from) {
    Warp& w = *now->warp;
    w.slots[threadIdx.x % 32][0] = bits_of<u32>(x);
    meet_warp();
    const T r = bits_of<T>(w.slots[from][0]);
    meet_warp();
    return r;
}
template <typename T>
T __shfl_xor_sync(u32, T x, int o) { return exchanged(x, threadIdx.x % 32 ^ o); }
template <typename T>
T __shfl_down_sync(u32, T x, int o) {
    const int lane = threadIdx.x % 32;
    return exchanged(x, lane + o < 32 ? lane + o : lane);
}
template <typename T>
T __shfl_sync(u32, T x, int lane) { return exchanged(x, lane); }
inline bool __all_sync(u32, bool is) {
    Warp& w = *now->warp;
    w.slots[threadIdx.x % 32][0] = is;
    meet_warp();
    bool all = true;
    for (int i = 0; i < 32; ++i) all = all && w.slots[i][0];
    meet_warp();
    return all;
}

// Numbers

inline float to_float(u16 h) {
    const u32 exponent = h >> 10 & 31, mantissa = h & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY) : exponent ? ldexpf(1024 + mantissa, (int)exponent - 25) : ldexpf(mantissa, -24);
    return h >> 15 ? -size : size;
}
inline u16 to_half(float f) {
    const u16 sign = bits_of<u32>(f) >> 31 << 15;
    f = fabsf(f);
    if (!(f == f)) return 0x7fff;
    if (f >= 65520.f) return sign | 0x7c00;
    int exponent;
    frexpf(f, &exponent);
    const int least = exponent > -14 ? exponent - 11 : -24;  // of the last bit
    const u32 n = (u32)lrintf(ldexpf(f, -least));            // to the nearest, of two to the even one
    return sign | (u16)(least == -24 ? n : ((u32)(least + 24) << 10) + n);
}
inline u32 to_half2(float low, float high) { return (u32)to_half(high) << 16 | to_half(low); }
inline float2 widened(u32 h) { return {to_float(h & 0xffff), to_float(h >> 16)}; }
inline float of_e4m3(unsigned char b) {
    const int exponent = b >> 3 & 15, mantissa = b & 7;
    const float size = (b & 127) == 127 ? NAN : exponent ? ldexpf(8 + mantissa, exponent - 10) : ldexpf(mantissa, -9);
    return b >> 7 ? -size : size;
}
inline void from_e4m3(u32 four, u32& low, u32& high) {
    low = to_half2(of_e4m3(four & 255), of_e4m3(four >> 8 & 255)), high = to_half2(of_e4m3(four >> 16 & 255), of_e4m3(four >> 24));
}
inline u32 e4m3_of(float f) {
    const u32 sign = bits_of<u32>(f) >> 31 << 7;
    f = fabsf(f);
    if (!(f == f)) return sign | 127;
    if (f > 448.f) f = 448.f;
    int exponent;
    frexpf(f, &exponent);
    const int least = exponent > -6 ? exponent - 4 : -9;
    const u32 n = (u32)lrintf(ldexpf(f, -least));
    return sign | (least == -9 ? n : ((u32)(least + 9) << 3) + n);
}
inline u32 to_e4m3(float a, float b, float c, float d) { return e4m3_of(a) | e4m3_of(b) << 8 | e4m3_of(c) << 16 | e4m3_of(d) << 24; }
inline float larger(float a, float b) { return !(a == a) || !(b == b) ? NAN : a > b ? a : b; }
inline float fast_reciprocal(float x) { return 1.f / x; }

// What a lane gives to a product: six words.
inline const u32 (*given(u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1))[6] {
    u32* own = now->warp->slots[threadIdx.x % 32];
    own[0] = a0, own[1] = a1, own[2] = a2, own[3] = a3, own[4] = b0, own[5] = b1;
    meet_warp();
    return now->warp->slots;
}

inline void multiply_add(int (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    const u32(*all)[6] = given(a0, a1, a2, a3, b0, b1);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int r = 0; r < 2; ++r)
        for (int n = 0; n < 2; ++n)
            for (int l = 0; l < 4; ++l)
                for (int h = 0; h < 2; ++h)
                    for (int i = 0; i < 4; ++i)
                        c[2 * r + n] += (int)(all[4 * g + l][r + 2 * h] >> 8 * i & 255) * (int)(signed char)(all[4 * (2 * t + n) + l][4 + h] >> 8 * i);
    meet_warp();
}

inline void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const u32(*all)[6] = given(a[0], a[1], a[2], a[3], b0, b1);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int r = 0; r < 2; ++r)
        for (int n = 0; n < 2; ++n) {
            double sum = 0;
            for (int l = 0; l < 4; ++l)
                for (int h = 0; h < 2; ++h) {
                    const float2 x = widened(all[4 * g + l][r + 2 * h]), y = widened(all[4 * (2 * t + n) + l][4 + h]);
                    sum += (double)x.x * y.x + (double)x.y * y.y;
                }
            c[2 * r + n] += (float)sum;
        }
    meet_warp();
}

// Meetings, memory

inline u32 thread() { return threadIdx.x; }
inline void meet_at(int place, int threads) { meet(now->own->meetings[place], threads); }
inline void pass_by(int place, int threads) {
    Meeting& m = now->own->meetings[place];
    if (++m.arrived == threads) m.arrived = 0, ++m.generation;
}
inline void meet_cluster() { meet(clusters[blockIdx.x / 2], 2 * all_threads); }
template <int N>
void take_registers() {}
template <int N>
void leave_registers() {}
inline void let_next_begin() {}
inline void wait_for_last() {}
inline void add_released(u32* to) { ++*to; }
inline u32 load_acquired(const u32* from) { give_way(); return *from; }
inline u32 add_and_get(u32* to) { return (*to)++; }

inline void* shared_memory() { return shared_memories + (u64)blockIdx.x * shared_stride; }
inline u32 address(const void* p) { return (u32)((const char*)p - shared_memories); }
inline u32 address_in(u32 address, int block) { return address % shared_stride + (blockIdx.x / 2 * 2 + block) * shared_stride; }

inline void settle(MemoryBarrier& b) {
    if (b.pending == 0 && b.bytes == 0) ++b.phase, b.pending = b.count;
}
inline void begin_barrier(u32 barrier, u32 count) { barriers[barrier] = {(int)count, (int)count, 0, 0}; }
inline void show_barriers() {}
inline void arrive_at(u32 barrier) {
    MemoryBarrier& b = barriers.at(barrier);
    if (--b.pending < 0) is_broken = true;
    settle(b);
}
inline void expect_at(u32 barrier, u32 bytes) {
    barriers.at(barrier).bytes += bytes;
    arrive_at(barrier);
}
inline bool is_past(u32 barrier, u32 parity) {
    if ((barriers.at(barrier).phase & 1) == parity) give_way();
    return (barriers.at(barrier).phase & 1) != parity;
}
inline void land_later(u32 bytes, u32 barrier, std::function<void()> land) {
    late.push_back({(int)(chance() % 6), [=] { land(); MemoryBarrier& b = barriers.at(barrier); b.bytes -= bytes; settle(b); }});
}
inline void copy(u32 to, const void* from, u32 bytes, u32 barrier) {
    land_later(bytes, barrier, [=] { memcpy(shared_memories + to, from, bytes); });
}
inline void send(u32 to, float a, float b, float c, float d, u32 barrier) {
    const float4 four = {a, b, c, d};
    land_later(16, barrier, [=] { memcpy(shared_memories + to, &four, 16); });
}

// Launching

template <typename... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) { kernel(*(std::remove_cv_t<std::remove_reference_t<A>>*)arguments[I]...); }
template <typename... A>
void call(void (*kernel)(A...), void** arguments) { call(kernel, arguments, std::index_sequence_for<A...>()); }

static void** launch_arguments;
static void run_fiber();

// Run a grid. -1: threads wait for what does not come, -2: too many have arrived at a barrier.
extern "C" int emulate(int grid, int threads, int shared, int seed, void** arguments) {
    chance.seed(seed), is_broken = false;
    fibers.clear(), blocks.assign(grid, Block()), barriers.clear(), late.clear();
    for (Meeting& m : clusters) m = Meeting();
    shared_stride = (shared + 1023) / 1024 * 1024, all_threads = threads, launch_arguments = arguments;
    shared_memories = (char*)aligned_alloc(1024, (u64)grid * shared_stride);
    memset(shared_memories, 0xff, (u64)grid * shared_stride);  // no numbers
    constexpr size_t STACK = 96 * 1024;
    for (int b = 0; b < grid; ++b) {
        blocks[b].warps.resize(threads / 32);
        for (int t = 0; t < threads; ++t) {
            fibers.emplace_back(new Fiber());
            Fiber& f = *fibers.back();
            f.stack.reset(new char[STACK]);
            f.thread.x = t, f.block.x = b, f.own = &blocks[b], f.warp = &blocks[b].warps[t / 32];
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = STACK, f.context.uc_link = &scheduler;
            makecontext(&f.context, run_fiber, 0);
        }
    }
    // Warps in any order; the lanes of one as long as these bring each other on.
    std::vector<int> order(fibers.size() / 32);
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    int result = -1;
    for (long round = 0; round < 400000; ++round) {
        std::shuffle(order.begin(), order.end(), chance);
        bool any = false;
        for (int w : order) {
            u64 before;
            int turns = 0;
            do {
                before = fibers[32 * w]->warp->generation;
                for (int lane = 0; lane < 32; ++lane) {
                    Fiber& f = *fibers[32 * w + lane];
                    if (f.done) continue;
                    any = true, now = &f;
                    swapcontext(&scheduler, &f.context);
                }
            } while (fibers[32 * w]->warp->generation != before && ++turns < 64);
        }
        for (size_t i = 0; i < late.size();)
            if (late[i].rounds-- > 0) ++i;
            else {
                auto land = std::move(late[i].land);
                late[i] = std::move(late.back()), late.pop_back();
                land();
            }
        if (!any || is_broken) {
            result = is_broken ? -2 : 0;
            break;
        }
    }
    fibers.clear();
    free(shared_memories);
    return result;
}
