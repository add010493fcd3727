// Cuts the attention of a pass into tasks. A sequence's many new tokens go a few at a time; a single one whose past is
// long goes by chunks, so that all threads have something to do.
#pragma once
#include "attention.h"

typedef struct {
    int64_t tasks, parts;
    int64_t *parts_of;  // [rows, 2]: the token's first part (-1: it needs none) and its number of chunks
} Plan;

INLINE int64_t tokens_a_task(const Paged *p) {
    int64_t group = p->heads / p->kv_heads;
    return group * 2 > MAX_ROWS ? 1 : MAX_ROWS * 3 / 4 / group > 0 ? MAX_ROWS * 3 / 4 / group : 1;
}

// Counts, and writes the tasks if there is a place for them: the longest first, so that no thread is left with one.
static void make_plan(const Paged *p, Plan *plan, Task *tasks) {
    int64_t group = p->heads / p->kv_heads, most = tokens_a_task(p);
    plan->tasks = plan->parts = 0;
    for (int64_t s = 0; s < p->sequences; s++) {
        int32_t start = p->query_start[s], end = p->query_start[s + 1];
        int64_t chunks = (p->context[s] + CHUNK - 1) / CHUNK;
        int split = end - start == 1 && chunks > 1;
        for (int64_t row = start; row < end && tasks; row++) {
            plan->parts_of[2 * row] = split ? plan->parts : -1;
            plan->parts_of[2 * row + 1] = chunks;
        }
        int64_t cuts = (end - start + most - 1) / most;
        for (int64_t cut = cuts - 1; cut >= 0; cut--)
            for (int32_t h = 0; h < p->kv_heads; h++) {
                int64_t row = start + cut * most, tokens = end - row < most ? end - row : most;
                for (int64_t c = 0; c < (split ? chunks : 1); c++, plan->tasks++)
                    if (tasks)
                        tasks[plan->tasks] = (Task){(int32_t)s, (int32_t)row, (int32_t)tokens, h, (int32_t)c,
                                                    (int32_t)chunks, split ? plan->parts + c : -1};
                if (split) plan->parts += group * chunks;
            }
    }
}
