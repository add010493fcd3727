// Worker threads that are started once and kept. A job runs on all of them at the same time and may meet at barriers.
// Waiting spins, because a decoding step meets some hundred times and sleeping costs more than the work between two
// meetings; a worker that has had nothing to do for `idle_microseconds` goes to sleep.
#pragma once
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define SPINS_BEFORE_YIELD 4096

typedef struct { int id, threads; } Worker;
typedef void (*Job)(Worker, void *);
typedef struct {
    _Alignas(64) _Atomic int arrived;
    _Alignas(64) _Atomic unsigned times;
} Meeting;

static struct {
    pthread_mutex_t use, sleep;  // `use`: one job at a time
    pthread_cond_t wake;
    int workers;  // that exist, with the caller
    int threads, idle_microseconds;  // settings
    int watches_forks;
    Job job;
    Worker crew;  // of the job: its number of threads
    void *argument;
    _Alignas(64) _Atomic unsigned issued;  // jobs so far
    _Alignas(64) _Atomic int sleeping;
    Meeting within, after;  // a job's own, of its crew; its end, of all workers
} pool = {
    .use = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER,
    .threads = 1, .idle_microseconds = 1000,
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int64_t microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

// Where there are fewer cores than threads, spinning gives way.
static void gather(Meeting *meeting, int threads) {
    if (threads == 1) return;
    unsigned before = atomic_load_explicit(&meeting->times, memory_order_acquire);
    if (atomic_fetch_add_explicit(&meeting->arrived, 1, memory_order_acq_rel) == threads - 1) {
        atomic_store_explicit(&meeting->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&meeting->times, 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&meeting->times, memory_order_acquire) == before; relax())
        if (++spins > SPINS_BEFORE_YIELD) sched_yield();
}

// Inside a job: every thread of its crew waits here for the others.
static void meet(Worker me) { gather(&pool.within, me.threads); }

static void wait_for_job(unsigned seen) {
    int64_t start = microseconds();
    for (unsigned spins = 1; atomic_load_explicit(&pool.issued, memory_order_acquire) == seen; relax(), spins++)
        if (spins % 64 == 0 && microseconds() - start > pool.idle_microseconds) break;
    if (atomic_load_explicit(&pool.issued, memory_order_acquire) != seen) return;
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleeping, 1);
    while (atomic_load(&pool.issued) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.sleep);
}

static void take_part(int id) {
    if (id < pool.crew.threads) pool.job((Worker){id, pool.crew.threads}, pool.argument);
    gather(&pool.after, pool.workers);
}

static void *work(void *argument) {
    Worker *born = argument;  // `threads` counts the jobs that were issued before this worker came
    int id = born->id;
    unsigned seen = (unsigned)born->threads;
    free(born);
    for (;;) {
        wait_for_job(seen++);
        take_part(id);
    }
    return 0;
}

// In a child made by fork there are no workers: its next job starts new ones.
static void forget_workers(void) {
    pthread_mutex_init(&pool.use, 0);
    pthread_mutex_init(&pool.sleep, 0);
    pthread_cond_init(&pool.wake, 0);
    pool.workers = 0;
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.within.arrived, 0);
    atomic_store(&pool.after.arrived, 0);
}

static void start_workers(void) {  // fewer than asked for will do too
    if (!pool.watches_forks++) pthread_atfork(0, 0, forget_workers);
    if (pool.workers == 0) pool.workers = 1;
    for (pthread_t thread; pool.workers < pool.threads; pool.workers++) {
        Worker *born = malloc(sizeof *born);
        *born = (Worker){pool.workers, (int)atomic_load(&pool.issued)};
        if (pthread_create(&thread, 0, work, born)) {
            free(born);
            return;
        }
        pthread_detach(thread);
    }
}

static void run_held(Job job, void *argument) {  // while `use` is held
    if (pool.workers < pool.threads) start_workers();
    pool.job = job;
    pool.argument = argument;
    pool.crew.threads = pool.threads < pool.workers ? pool.threads : pool.workers;
    atomic_fetch_add(&pool.issued, 1);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
    take_part(0);
}

static void run_job(Job job, void *argument) {
    pthread_mutex_lock(&pool.use);
    run_held(job, argument);
    pthread_mutex_unlock(&pool.use);
}

// This worker's share of `count` things: [*first, returned).
static inline int64_t share(Worker me, int64_t count, int64_t *first) {
    *first = count * me.id / me.threads;
    return count * (me.id + 1) / me.threads;
}
