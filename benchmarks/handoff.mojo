"""Empty parallel regions of the toolchain's own pool, with a CPU context that is kept: benchmarks/handoff.py."""

from max.algorithm import sync_parallelize
from max.gpu.host.device_context import DeviceContextBase
from std.sys import CompilationTarget
from std.time import perf_counter_ns


@export
def regions(count: Int64, threads: Int64, times: Pointer[Int64, MutUntrackedOrigin]) abi("C"):
    """Times `count` regions of `threads` empty tasks, each in ns; the first is -1 where there is no context."""
    try:
        var context = DeviceContextBase[CompilationTarget()](api="cpu")
        for i in range(Int(count)):
            var start = perf_counter_ns()

            def task(number: Int) {imm}:
                pass

            sync_parallelize(task, Int(threads), context)
            times[unsafe_offset=i] = Int64(perf_counter_ns() - start)
    except:
        times[unsafe_offset=0] = -1
