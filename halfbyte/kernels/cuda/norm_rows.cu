// RMS norm of a float32 stream [T, K] to float16 with the columns in the tiles' order (wide_linear.cu). K: whole 64s.
// One block a row.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

extern "C" __global__ void __launch_bounds__(256) norm_rows(const float* stream, const float* __restrict__ norm,
                                                            u16* __restrict__ out, int K, float eps) {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    const float* row = stream + (u64)blockIdx.x * K;
    float square = 0.f;
    for (int k = threadIdx.x * 4; k < K; k += 1024) {
        const float4 v = __ldcg((const float4*)(row + k));
        square += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
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
    for (int at = threadIdx.x * 4; at < K; at += 1024) {
        // four neighbours there are two pairs here, 8 columns apart
        const int from = (at & ~31) + (at >> 2 & 1) * 16 + (at >> 3 & 3) * 2;
        u32 y[2];
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            const float2 v = __ldcg((const float2*)(row + from + 8 * u)), n = *(const float2*)(norm + from + 8 * u);
            asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y[u]) : "f"(v.y * r * n.y), "f"(v.x * r * n.x));
        }
        *(uint2*)(out + (u64)blockIdx.x * K + at) = make_uint2(y[0], y[1]);
    }
}
