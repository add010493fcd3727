// RMS norm of a float32 stream [T, K] to float16 with the columns in the tiles' order (wide_linear.cu). K: whole 64s.
// One block a row. VECTORS, set at compile time: K / 2048, rounded up. A thread has the eight columns of 16 bytes there: four
// pairs, 8 columns apart.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

extern "C" __global__ void __launch_bounds__(256) norm_rows(const float* stream, const float* __restrict__ norm,
                                                            u16* __restrict__ out, int K, float eps) {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    const float* row = stream + (u64)blockIdx.x * K;
    float2 x[VECTORS][4];
    float square = 0.f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int to = i * 2048 + threadIdx.x * 8, k = (to & ~31) + (to >> 3 & 3) * 2;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            x[i][j] = to < K ? __ldcg((const float2*)(row + k + 8 * j)) : make_float2(0.f, 0.f);
            square += x[i][j].x * x[i][j].x + x[i][j].y * x[i][j].y;
        }
    }
    __shared__ float squares[8];
#pragma unroll
    for (int o = 16; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
    if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
    __syncthreads();
    square = 0.f;
#pragma unroll
    for (int w = 0; w < 8; ++w) square += squares[w];
    const float r = rsqrtf(square / K + eps);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int to = i * 2048 + threadIdx.x * 8, k = (to & ~31) + (to >> 3 & 3) * 2;
        if (to >= K) break;
        u32 y[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float2 n = *(const float2*)(norm + k + 8 * j);
            asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y[j]) : "f"(x[i][j].y * r * n.y), "f"(x[i][j].x * r * n.x));
        }
        *(uint4*)(out + (u64)blockIdx.x * K + to) = make_uint4(y[0], y[1], y[2], y[3]);
    }
}
