"""What a parallel region costs: the toolchain's sync_parallelize beside our own pool.

    python benchmarks/handoff.py

The toolchain's regions are empty and timed inside Mojo, with one CPU context for all. Ours are called
from Python, and all threads wait for each other in them eight times (see templates/probe_cpu.mojo.j2).
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from tuner.codegen import probes
from tuner.host.toolchain import find_mojo
from tuner.intervals import Median, median
from tuner.measure.probe import MEET, Probe
from tuner.target import detect

REGIONS = 5000


def toolchain_us(threads: int) -> Median:
    """One region of sync_parallelize."""
    times = np.zeros(REGIONS, np.int64)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "handoff.so"
        source = Path(__file__).with_suffix(".mojo")
        command = [find_mojo() or "mojo", "build", "--emit", "shared-lib", "-o", library, source]
        subprocess.run(command, check=True, capture_output=True)
        function = ctypes.CDLL(str(library)).regions
        function.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        function(REGIONS, threads, times.ctypes.data)
    if times[0] < 0:
        raise SystemExit("sync_parallelize: no CPU context on this machine")
    return median([float(ns) / 1e3 for ns in times[REGIONS // 10 :]])


def ours_us() -> Median:
    """One region of eight meetings, and the call from Python."""
    probe = Probe(detect(), probes.of_cpu(detect()))
    return median([1e6 * probe._run(MEET, detect().cores) for _ in range(REGIONS)])


def main() -> None:
    threads = detect().cores
    for name, time in (("sync_parallelize", toolchain_us(threads)), ("own pool", ours_us())):
        print(f"{name:18} {time.value:6.2f} us a region ({time.low:.2f} to {time.high:.2f})")


if __name__ == "__main__":
    main()
