/* Runs a float32 kernel without Python: packs experts that are made up here, prints y.
 *
 *     cc -O2 -I"$(python -c 'import tuner, os; print(os.path.dirname(tuner.__file__))')" \
 *        examples/layer.c -o layer -ldl -lpthread && ./layer KERNEL.so TOKENS WORKERS
 *
 * KERNEL.so: a member bin/PROBLEM/TARGET/VARIANT.so of a bundle (a zip file), or what `moetune` compiled into
 * its cache folder. A library that lacks one of the six functions, such as a probe's, is refused by name.
 * WORKERS: threads, at most as many as the process may use; 0 for all of these.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include "moetune.h"

static int64_t info[MOE_INFO_WORDS], *control;
static void *packed;
static moe_info_fn *moe_info;
static moe_pack_fn *moe_pack;
static moe_scratch_bytes_fn *moe_scratch_bytes;
static moe_call_fn *moe_call;
static moe_worker_fn *moe_worker;
static moe_stop_fn *moe_stop;

static int load(const char *path) { /* 1: the library is a kernel */
    const struct { const char *name; void *place; } functions[] = {
        {"moe_info", &moe_info}, {"moe_pack", &moe_pack}, {"moe_scratch_bytes", &moe_scratch_bytes},
        {"moe_call", &moe_call}, {"moe_worker", &moe_worker}, {"moe_stop", &moe_stop},
    };
    void *library = dlopen(path, RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 0;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!(*(void **)functions[i].place = dlsym(library, functions[i].name)))
            return fprintf(stderr, "%s: is no kernel: lacks %s\n", path, functions[i].name), 0;
    return 1;
}

static void *zeros(int64_t bytes) { /* starts on a page, all zero */
    size_t size = (bytes + 4095) / 4096 * 4096;
    char *memory = aligned_alloc(4096, size);
    for (size_t i = 0; i < size; i++) memory[i] = 0;
    return memory;
}

static float *made_up(int64_t count, int64_t salt) { /* the same numbers in any language */
    float *values = zeros(count * 4);
    for (int64_t i = 0; i < count; i++) values[i] = ((i * 7 + salt * 13) % 64 - 32) / 256.0f;
    return values;
}

static void *live(void *number) {
    moe_worker(control, (int64_t)number);
    return NULL;
}

static int64_t pool_size(int64_t most) { /* a quota of processor time is not looked at here */
    cpu_set_t allowed;
    int64_t cores = sched_getaffinity(0, sizeof allowed, &allowed) ? 1 : CPU_COUNT(&allowed);
    return most > 0 && most < cores ? most : cores;
}

int main(int argc, char **argv) {
    if (argc != 4 || atoll(argv[2]) < 1 || atoll(argv[3]) < 0)
        return fprintf(stderr, "layer KERNEL.so TOKENS WORKERS (TOKENS at least 1, WORKERS at least 0)\n"), 2;
    if (!load(argv[1])) return 1;
    moe_info(info);
    if (info[MOE_INFO_ABI] != MOE_ABI)
        return fprintf(stderr, "%s: has ABI %lld, this program %d\n", argv[1], (long long)info[MOE_INFO_ABI], MOE_ABI), 1;
    int64_t T = atoll(argv[2]), D = info[MOE_INFO_HIDDEN], F = info[MOE_INFO_EXPERT_DIM];
    int64_t E = info[MOE_INFO_EXPERTS], k = info[MOE_INFO_TOP_K], workers = pool_size(atoll(argv[3]));
    float *gate = made_up(E * F * D, 1), *up = made_up(E * F * D, 2), *down = made_up(E * D * F, 3);
    packed = zeros(info[MOE_INFO_PACKED_BYTES]), control = zeros(info[MOE_INFO_CONTROL_BYTES]);
    for (int64_t e = 0, at = 0; e < E; e++, at += F * D)
        moe_pack((int64_t)packed, e, gate + at, up + at, down + at, F, F, NULL, NULL, NULL);
    pthread_t *threads = zeros(workers * sizeof(pthread_t));
    for (int64_t w = 1; w < workers; w++) pthread_create(&threads[w], NULL, live, (void *)w);
    float *y = zeros(T * D * 4);
    int64_t arguments[MOE_ARG_WORDS] = {T, (int64_t)made_up(T * D, 4), (int64_t)y, (int64_t)packed};
    arguments[MOE_ARG_SCRATCH] = (int64_t)zeros(moe_scratch_bytes(T, workers));
    arguments[MOE_ARG_WORKERS] = workers;
    arguments[MOE_ARG_ROUTER] = (int64_t)made_up(E * D, 5);
    arguments[MOE_ARG_INDICES] = (int64_t)zeros(T * k * 4), arguments[MOE_ARG_WEIGHTS] = (int64_t)zeros(T * k * 4);
    moe_call(control, arguments);
    for (int64_t i = 0; i < T * D; i++) printf("%.9g%c", y[i], (i + 1) % D ? ' ' : '\n');
    moe_stop(control);
    for (int64_t w = 1; w < workers; w++) pthread_join(threads[w], NULL);
    return 0;
}
