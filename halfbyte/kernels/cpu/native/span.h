// The stretch between two attentions (interface.Span), by all workers together, with a meeting after each step.
#pragma once
#include "attention.h"
#include "linear.h"

typedef struct {
    Int4Linear o, gate, up, down;
    const float *norm;
} After;

typedef struct {
    const After *after;  // null in a network's first span
    const float *norm;
    const Int4Linear *qkv;  // null in its last one
    int64_t hidden;
    float eps;
} Span;

typedef struct {  // of one pass
    int64_t rows;
    float *residual;    // [rows, hidden]
    float *attended;    // [rows, heads * d]
    float *out;         // [rows, outputs of qkv, or hidden]
    float *normed;      // [threads, hidden]: each worker's own row
    char *rooms;        // [threads, room]: each worker's own, for tiles (linear.h)
    size_t room;
    Rounded rounded, activated;
    Foresight *next;  // a worker's own
} Buffers;

INLINE void *room_of(Worker me, const Buffers *b) { return b->rooms + (size_t)me.id * b->room; }

static Rounded with_inputs(Rounded r, int64_t inputs) {
    r.inputs = inputs;
    return r;
}

static void norm_and_round(Worker me, const Buffers *b, const float *weight, int64_t hidden, float eps, Rounded to) {
    int64_t row, end = share(me, b->rows, &row);
    float *normed = b->normed + me.id * hidden;
    for (; row < end; row++) {
        rms_norm(b->residual + row * hidden, weight, hidden, eps, normed);
        round_row(normed, &to, row);
    }
}

static void round_rows(Worker me, const float *x, int64_t rows, Rounded to) {
    int64_t row, end = share(me, rows, &row);
    for (; row < end; row++) round_row(x + row * to.inputs, &to, row);
}

// residual += o(attended); residual += down(SiLU(gate) * up) of its norm. What was attended lies rounded in b->rounded.
static void after_attention(Worker me, const After *p, const Buffers *b, int64_t hidden, float eps) {
    Rounded attended = with_inputs(b->rounded, p->o.inputs), x = with_inputs(b->rounded, hidden);
    Rounded activated = with_inputs(b->activated, p->down.inputs);
    void *room = room_of(me, b);
    int4_linear(me, &p->o, &attended, b->rows, b->residual, 1, room);
    meet(me);
    norm_and_round(me, b, p->norm, hidden, eps, x);
    meet(me);
    gated(me, &p->gate, &p->up, &x, b->rows, &activated, room, b->next);
    meet(me);
    int4_linear(me, &p->down, &activated, b->rows, b->residual, 1, room);
    meet(me);
}

static void span(Worker me, const Span *p, const Buffers *b) {
    if (p->after) after_attention(me, p->after, b, p->hidden, p->eps);
    if (p->qkv) {
        Rounded x = with_inputs(b->rounded, p->hidden);
        norm_and_round(me, b, p->norm, p->hidden, p->eps, x);
        meet(me);
        int4_linear(me, p->qkv, &x, b->rows, b->out, 0, room_of(me, b));
    } else {
        int64_t row, end = share(me, b->rows, &row);
        for (; row < end; row++)
            rms_norm(b->residual + row * p->hidden, p->norm, p->hidden, p->eps, b->out + row * p->hidden);
    }
    meet(me);
}
