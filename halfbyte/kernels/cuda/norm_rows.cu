// RMS norm of a float32 stream [T, K] to float16 with the columns in the tiles' order (wide_linear.cu). K: whole 64s.
// One block a row. VECTORS, set at compile time: K / 1024, rounded up.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

extern "C" __global__ void __launch_bounds__(256) norm_rows(const float* stream, const float* __restrict__ norm,
                                                            u16* __restrict__ out, int K, float eps) {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    const float* row = stream + (u64)blockIdx.x * K;
    float4 x[VECTORS];
    float square = 0.f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int k = i * 1024 + threadIdx.x * 4;
        x[i] = k < K ? __ldcg((const float4*)(row + k)) : make_float4(0.f, 0.f, 0.f, 0.f);
        square += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
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
        const int k = i * 1024 + threadIdx.x * 4;
        if (k >= K) break;
        const float4 n = *(const float4*)(norm + k);
        u32 low, high;  // the two pairs of four neighbours lie 8 columns apart there
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(low) : "f"(x[i].y * r * n.y), "f"(x[i].x * r * n.x));
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(high) : "f"(x[i].w * r * n.w), "f"(x[i].z * r * n.z));
        u16* to = out + (u64)blockIdx.x * K + (k & ~31) + (k >> 1 & 3) * 8 + (k >> 4 & 1) * 4 + (k >> 3 & 1) * 2;
        *(u32*)to = low;
        *(u32*)(to + 8) = high;
    }
}
