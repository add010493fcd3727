// The largest of each row of logits, and whether all of the row are finite, in one reading of it.
#pragma once
#include "lanes.h"
#include "pool.h"

#define NOT_FINITE (-1)

// The place of the first of the largest, or NOT_FINITE.
INLINE int64_t largest_of(const float *x, int64_t width) {
    const ivec exponent = (ivec){} + 0x7f800000;
    lanes most;
    ilanes odd = {};
    for (int p = 0; p < PARTS; p++) most.part[p] = all(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        UNROLL for (int p = 0; p < PARTS; p++) {
            vec v = load(x + i + p * WIDTH);
            most.part[p] = vmax(most.part[p], v);
            odd.part[p] |= (ivec)(((ivec)v & exponent) == exponent);
        }
    float top = max_of_lanes(&most);
    int damaged = isum_of_lanes(&odd) != 0;  // each is 0 or -1
    for (; i < width; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        damaged |= (bits & 0x7f800000) == 0x7f800000;
        if (x[i] > top) top = x[i];
    }
    if (damaged) return NOT_FINITE;
    const vec wanted = all(top);
    for (i = 0; i + LANES <= width; i += LANES) {
        ilanes here;
        UNROLL for (int p = 0; p < PARTS; p++) here.part[p] = (ivec)(load(x + i + p * WIDTH) == wanted);
        if (isum_of_lanes(&here)) break;
    }
    while (i < width - 1 && x[i] != top) i++;
    return i;
}

typedef struct {
    const float *logits;
    int64_t rows, width;
    int64_t *places;
} Likeliest;

static void likeliest_job(Worker me, void *argument) {
    const Likeliest *p = argument;
    int64_t row, end = share(me, p->rows, &row);
    for (; row < end; row++) p->places[row] = largest_of(p->logits + row * p->width, p->width);
}
