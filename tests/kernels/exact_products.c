// Products of integers by the native kernels, which must come out exactly: counts those that do not, and prints a hash of
// all, which is then the same on every machine. Groups of 32, 64 and 128, one to thirty-five rows, two threads.
#include "halfbyte.c"
#include <stdio.h>

enum { OUTPUTS = 80, INPUTS = 384, ROWS = 35 };

static uint8_t q[OUTPUTS * INPUTS], zeros[OUTPUTS * INPUTS];
static uint16_t scales[OUTPUTS * INPUTS];
static float x[ROWS * INPUTS], y[ROWS * OUTPUTS];

static int scale_of(int i) { return i % 3 ? 1 : 2; }

int main(void) {
    uint64_t hash = 1469598103934665603u, wrong = 0;
    hb_threads(2, 50);
    for (int group = 32; group <= 128; group *= 2) {
        int groups = INPUTS / group;
        for (int i = 0; i < OUTPUTS * INPUTS; i++) q[i] = (uint8_t)((i * 7 + i / 13) % 16);
        for (int i = 0; i < OUTPUTS * groups; i++) {
            zeros[i] = (uint8_t)(i * 5 % 16);
            scales[i] = scale_of(i) == 1 ? 0x3c00 : 0x4000;
        }
        // the largest of each block is 127, so that its scale is 1 and nothing is rounded
        for (int i = 0; i < ROWS * INPUTS; i++) x[i] = i % 32 ? (float)(i * 37 % 255 - 127) : 127.0f;
        Int4Linear w = {OUTPUTS, INPUTS, group, aligned_alloc(64, sizeof q), aligned_alloc(64, sizeof scales),
                        aligned_alloc(64, sizeof zeros), 0};
        hb_pack_int4(&w, q, scales, zeros);
        for (int rows = 1; rows <= ROWS; rows++) {
            if (!hb_linear(&w, x, rows, y)) return 2;
            for (int r = 0; r < rows; r++)
                for (int o = 0; o < OUTPUTS; o++) {
                    int64_t sum = 0, got = (int64_t)y[r * OUTPUTS + o];
                    for (int k = 0; k < INPUTS; k++) {
                        int g = o * groups + k / group;
                        sum += (int64_t)x[r * INPUTS + k] * (q[o * INPUTS + k] - zeros[g]) * scale_of(g);
                    }
                    wrong += sum != got;
                    hash = (hash ^ (uint64_t)got) * 1099511628211u;
                }
        }
    }
    printf("wrong %llu hash %016llx\n", (unsigned long long)wrong, (unsigned long long)hash);
    return 0;
}
