// 4-bit kernels for a CPU: what Python calls. Built by build.py for one instruction set; loaded by library.py, whose
// ctypes structures mirror those here. Every call is a job of the pool in pool.h; calls from several threads take turns.
#include <stdlib.h>
#include "draw.h"
#include "likeliest.h"
#include "pack.h"
#include "pass.h"

#define EXPORT __attribute__((visibility("default")))

// Room for a pass, kept and grown: taken from in pieces, under the pool's lock.
static struct { char *start; size_t size, used; } arena;

static void *piece(size_t bytes) {
    void *p = arena.start + arena.used;
    arena.used += (bytes + 63) / 64 * 64;
    return p;
}

static int ensure(size_t bytes) {
    arena.used = 0;
    if (bytes <= arena.size) return 1;
    free(arena.start);
    arena.size = (bytes + 4095) / 4096 * 4096;
    arena.start = aligned_alloc(4096, arena.size);
    if (!arena.start) arena.size = 0;
    return arena.start != 0;
}

static size_t rounded_bytes(int64_t rows, int64_t inputs) {
    return (size_t)((rows + PACK - 1) / PACK * PACK * (inputs / BLOCK)) * sizeof(Rounded32) + 64;
}

static Rounded a_rounded(int64_t rows, int64_t inputs) { return (Rounded){piece(rounded_bytes(rows, inputs)), inputs}; }

EXPORT void hb_threads(int threads, int idle_microseconds) {
    pthread_mutex_lock(&pool.use);
    pool.threads = threads;
    pool.idle_microseconds = idle_microseconds;
    pthread_mutex_unlock(&pool.use);
}

EXPORT void hb_pack_int4(Int4Linear *to, const uint8_t *q, const uint16_t *scales, const uint8_t *zeros) {
    run_job(pack_int4_job, &(PackInt4){q, zeros, scales, to});
}

EXPORT void hb_pack_int8(Int8Linear *to, const float *weight, int64_t first, int64_t count) {
    run_job(pack_int8_job, &(PackInt8){weight, first, count, to});
}

// places [rows]: of each row's largest logit, the first of equals, or NOT_FINITE.
EXPORT void hb_likeliest(const float *logits, int64_t rows, int64_t width, int64_t *places) {
    Likeliest job = {logits, rows, width, places};
    if (rows == 1) likeliest_job((Worker){0, 1}, &job);  // waking the others takes as long
    else run_job(likeliest_job, &job);
}

// Sets the rows' tokens. Returns 0 if there is no memory, as the calls below do.
EXPORT int hb_draw(DrawRow *rows, int64_t count, int64_t width) {
    int ok = 0;
    pthread_mutex_lock(&pool.use);
    size_t rooms = (size_t)pool.threads * draw_bytes(width);
    if (ensure(rooms + 64)) {
        Draw job = {rows, count, width, piece(rooms)};
        if (count == 1) draw_job((Worker){0, 1}, &job);
        else run_held(draw_job, &job);
        ok = 1;
    }
    pthread_mutex_unlock(&pool.use);
    return ok;
}

typedef struct {
    const Int4Linear *four;
    const Int8Linear *eight;
    const float *x;
    int64_t rows;
    Rounded rounded;
    float *y;
    char *rooms;
} Product;

static void product_job(Worker me, void *argument) {
    const Product *p = argument;
    round_rows(me, p->x, p->rows, p->rounded);
    meet(me);
    void *room = p->rooms + (size_t)me.id * tile_bytes(p->rounded.inputs);
    if (p->four) int4_linear(me, p->four, &p->rounded, p->rows, p->y, 0, room);
    else int8_linear(me, p->eight, &p->rounded, p->rows, p->y);
}

static int product(Product p, int64_t inputs) {
    int ok = 0;
    pthread_mutex_lock(&pool.use);
    size_t rooms = (size_t)pool.threads * tile_bytes(inputs) + 64;
    if (ensure(rounded_bytes(p.rows, inputs) + rooms)) {
        p.rounded = a_rounded(p.rows, inputs);
        p.rooms = piece(rooms);
        run_held(product_job, &p);
        ok = 1;
    }
    pthread_mutex_unlock(&pool.use);
    return ok;
}

// y [rows, outputs] = x [rows, inputs] W^T + bias.
EXPORT int hb_linear(const Int4Linear *w, const float *x, int64_t rows, float *y) {
    return product((Product){.four = w, .x = x, .rows = rows, .y = y}, w->inputs);
}

EXPORT int hb_head(const Int8Linear *w, const float *x, int64_t rows, float *y) {
    return product((Product){.eight = w, .x = x, .rows = rows, .y = y}, w->inputs);
}

typedef struct { const Span *span; Buffers buffers; } SpanJob;

static void span_job(Worker me, void *argument) {
    const SpanJob *p = argument;
    Buffers b = p->buffers;
    Foresight nothing = {0};
    b.next = &nothing;
    if (p->span->after) {
        round_rows(me, p->buffers.attended, p->buffers.rows, with_inputs(p->buffers.rounded, p->span->after->o.inputs));
        meet(me);
    }
    span(me, p->span, &b);
}

static int64_t widest_of(const Span *s) {
    return s->after && s->after->o.inputs > s->hidden ? s->after->o.inputs : s->hidden;
}

// A worker's room for tiles: four of the gated product's, or one of down's.
static size_t room_for(int64_t widest, int64_t gated) {
    size_t four = 4 * tile_bytes(widest), one = tile_bytes(gated);
    return four > one ? four : one;
}

// residual [rows, hidden] is changed in place.
EXPORT int hb_span(const Span *s, const float *attended, float *residual, int64_t rows, float *out) {
    SpanJob job = {s, {.rows = rows, .residual = residual, .attended = (float *)attended, .out = out}};
    int64_t widest = widest_of(s), gated = s->after ? s->after->down.inputs : 0;
    int ok = 0;
    pthread_mutex_lock(&pool.use);
    size_t own = (size_t)(pool.threads * s->hidden * 4) + 64;
    size_t room = room_for(widest, gated), rooms = (size_t)pool.threads * room + 64;
    if (ensure(rounded_bytes(rows, widest) + rounded_bytes(rows, gated) + own + rooms)) {
        job.buffers.rounded = a_rounded(rows, widest);
        job.buffers.activated = a_rounded(rows, gated);
        job.buffers.normed = piece(own);
        job.buffers.rooms = piece(rooms);
        job.buffers.room = room;
        run_held(span_job, &job);
        ok = 1;
    }
    pthread_mutex_unlock(&pool.use);
    return ok;
}

// What attention needs, taken from the arena.
static size_t attention_bytes(const Paged *paged, int64_t layers, int64_t rows, Plan *plan) {
    make_plan(paged, plan, 0);
    return (size_t)plan->tasks * sizeof(Task) + (size_t)plan->parts * sizeof(Part) + (size_t)rows * 16 +
           (size_t)layers * 8 + (size_t)pool.threads * sizeof(Room) + 512;
}

static void set_attention(Pass *p, int64_t layers, int64_t rows, Plan *plan) {
    Task *tasks = piece((size_t)plan->tasks * sizeof(Task));
    p->parts = piece((size_t)plan->parts * sizeof(Part));
    p->rooms = piece((size_t)pool.threads * sizeof(Room));
    p->taken = piece((size_t)layers * 8);
    memset((void *)p->taken, 0, (size_t)layers * 8);
    p->parts_of = plan->parts_of = piece((size_t)rows * 16);
    make_plan(&p->paged, plan, tasks);
    p->tasks = tasks;
    p->count = plan->tasks;
}

static void attention_job(Worker me, void *argument) {
    const Pass *p = argument;
    int64_t width = p->paged.kv_heads * p->paged.head_dim, row, end = share(me, p->buffers.rows, &row);
    for (; row < end; row++) keep(&p->paged, p->caches, p->paged.slots[row], p->k + row * width, p->v + row * width);
    meet(me);
    attend_all(me, p, &p->paged, 0, p->q, p->paged.heads * p->paged.head_dim);
    meet(me);
    merge_parts(me, p, &p->paged);
}

// Keeps k and v [rows, kv_heads, d], then attends. q: [rows, heads, d], already scaled -> out, of the same shape.
EXPORT int hb_attention(const Paged *paged, const LayerCache *cache, const float *q, const float *k, const float *v,
                        float *out) {
    int64_t rows = paged->query_start[paged->sequences];
    Pass pass = {.paged = *paged, .caches = cache, .q = q, .k = k, .v = v, .buffers = {.rows = rows, .attended = out}};
    Plan plan;
    int ok = 0;
    pthread_mutex_lock(&pool.use);
    if (ensure(attention_bytes(paged, 1, rows, &plan))) {
        set_attention(&pass, 1, rows, &plan);
        run_held(attention_job, &pass);
        ok = 1;
    }
    pthread_mutex_unlock(&pool.use);
    return ok;
}

// A whole pass. residual [rows, hidden] is overwritten; hidden [rows, hidden] is the result. Without a start, residual
// holds the embeddings, and the angles are given row by row.
EXPORT int hb_pass(const Network *n, const Paged *paged, const LayerCache *caches, const Start *start,
                   const float *cosine, const float *sine, float *residual, float *hidden) {
    int64_t rows = paged->query_start[paged->sequences], width = n->heads * n->head_dim;
    int64_t stride = width + 2 * n->kv_heads * n->head_dim, widest = width > n->hidden ? width : n->hidden;
    Pass pass = {.network = n, .paged = *paged, .caches = caches, .start = start, .cosine = cosine, .sine = sine,
                 .hidden = hidden, .buffers = {.rows = rows, .residual = residual}};
    Buffers *b = &pass.buffers;
    Plan plan;
    int ok = 0;
    pthread_mutex_lock(&pool.use);
    size_t own = (size_t)(pool.threads * n->hidden * 4) + 64, floats = (size_t)(rows * (width + stride) * 4) + 128;
    size_t room = room_for(widest, n->gated), rooms = (size_t)pool.threads * room + 64;
    size_t bytes = rounded_bytes(rows, widest) + rounded_bytes(rows, n->gated) + own + rooms + floats;
    if (ensure(bytes + attention_bytes(paged, n->layers, rows, &plan))) {
        b->rounded = a_rounded(rows, widest);
        b->activated = a_rounded(rows, n->gated);
        b->normed = piece(own);
        b->rooms = piece(rooms);
        b->room = room;
        b->attended = piece((size_t)(rows * width * 4));
        b->out = piece((size_t)(rows * stride * 4));
        set_attention(&pass, n->layers, rows, &plan);
        run_held(pass_job, &pass);
        ok = 1;
    }
    pthread_mutex_unlock(&pool.use);
    return ok;
}
