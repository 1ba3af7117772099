/* moetune: the interface of a compiled Mixture-of-Experts kernel.
 *
 * A kernel is a shared library of one layer (problem) for one processor; it needs libc alone. Load it
 * with dlopen and take its six functions by name with dlsym: several kernels in one process export the same names.
 *
 *     D hidden size, F expert width, E experts, k experts a token, T tokens of one call, N threads that share it
 *
 * Order of a call:
 *   1. moe_info       once: the ABI, the sizes, how much memory the rest takes.
 *   2. moe_pack       once for each expert: weights as published -> the form that the kernel reads.
 *   3. moe_worker     once in each of N - 1 threads of yours: they wait there for calls.
 *   4. moe_call       as often as you like, from one thread at a time: y = layer(x).
 *   5. moe_stop       at the end; then join the threads and free the memory.
 *
 * N is yours to choose: the cores that the process may use (sched_getaffinity, the quota of its control group), but at
 * most as many as the kernel was tuned with: `workers` of its configuration in a bundle's manifest, w in its name; 0 is all.
 * The same kernel takes any N.
 *
 * Nothing here allocates, prints or fails: what doesn't fit has to be refused before. Memory: control block, packed
 * weights and scratch start at a multiple of 64 bytes (2 MiB, on huge pages, is 4 to 9 % faster).
 */
#ifndef MOETUNE_H
#define MOETUNE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_ABI 2

/* What moe_info fills in, as int64: */
enum moe_info_word {
    MOE_INFO_ABI = 0,          /* MOE_ABI, or don't call anything else */
    MOE_INFO_HIDDEN,           /* D */
    MOE_INFO_EXPERT_DIM,       /* F */
    MOE_INFO_EXPERTS,          /* E, without shared experts */
    MOE_INFO_TOP_K,            /* k */
    MOE_INFO_PACKED_BYTES,     /* size of the packed weights */
    MOE_INFO_CONTROL_BYTES,    /* size of the control block; all zero before its first use */
    MOE_INFO_SCRATCH_KEEP,     /* 1: keep the scratch memory between calls; 0: fresh pages were faster */
    MOE_INFO_WORDS
};

/* What moe_call reads, as int64; addresses as (int64_t)pointer, 0 where the layer has no such array: */
enum moe_argument {
    MOE_ARG_TOKENS = 0,        /* T, at least 1 */
    MOE_ARG_X,                 /* [T, D] of the layer's data type */
    MOE_ARG_Y,                 /* [T, D] of the same type, written; not x itself */
    MOE_ARG_PACKED,            /* the packed weights */
    MOE_ARG_SCRATCH,           /* moe_scratch_bytes(T, N) bytes */
    MOE_ARG_ROUTER,            /* float32 [E, D], whatever the layer's type */
    MOE_ARG_ROUTER_BIAS,       /* float32 [E] */
    MOE_ARG_CORRECTION_BIAS,   /* float32 [E] */
    MOE_ARG_INDICES,           /* int32 [T, k]: the chosen experts; written, or read if ROUTED is 1 */
    MOE_ARG_WEIGHTS,           /* float32 [T, k]: their weights; written, or read if ROUTED is 1 */
    MOE_ARG_ROUTED,            /* 1: the caller has routed; 0: the kernel does */
    MOE_ARG_WORKERS,           /* N, at least 1: the caller and workers 1 .. N - 1, whether they have come yet or not */
    MOE_ARG_PASS_FIRST,        /* the kernel's own */
    MOE_ARG_PASS_TOKENS,       /* the kernel's own */
    MOE_ARG_WORDS = 16
};

/* Fills info[MOE_INFO_WORDS]. */
typedef void moe_info_fn(int64_t *info);

/* Packs one expert: gate and up [width, D] with rows D apart, down [D, width] with rows down_stride elements
 * apart, biases [F], [F], [D]; all of the weights' data type, NULL where the layer has none. A routed expert
 * 0 .. E - 1 has width F and down_stride F. A shared expert of width S is packed as experts E, E + 1, ...
 * of width F (the last one the rest): rows n * F .. of its gate and up, columns n * F .. of its down, whose rows are S apart.
 * Different experts may be packed in different threads. */
typedef void moe_pack_fn(int64_t packed, int64_t expert, const void *gate, const void *up, const void *down,
                         int64_t down_stride, int64_t width, const void *gate_bias, const void *up_bias,
                         const void *down_bias);

/* Bytes of scratch for a call of so many tokens on so many threads; bounded, since many tokens go in several passes. */
typedef int64_t moe_scratch_bytes_fn(int64_t tokens, int64_t workers);

/* Runs the layer: arguments[MOE_ARG_WORDS]. One call at a time for each control block. Works without worker
 * threads, too, with one core. Same x, same y: the bits don't depend on the threads. */
typedef void moe_call_fn(int64_t *control, int64_t *arguments);

/* The life of worker thread 1 .. N - 1: waits for calls and helps; returns after moe_stop. */
typedef void moe_worker_fn(int64_t *control, int64_t worker);

/* Sends the worker threads home; no call may run or follow. */
typedef void moe_stop_fn(int64_t *control);

#ifdef __cplusplus
}
#endif

#endif
