"""Programs of a layer on a GPU: each loaded once in a process, and what serves where one does not load."""

from __future__ import annotations

import dataclasses
import hashlib
import math

from tuner.errors import KernelError
from tuner.gpu.driver import CudaError, Device
from tuner.gpu.kernel import GpuKernel
from tuner.gpu.program import layer_program
from tuner.gpu.ptx import Program
from tuner.runtime.catalogue import Catalogue
from tuner.runtime.dispatch import Dispatch
from tuner.select.selection import Selection

# By device and text: layers of one problem share them.
_loaded: dict[tuple[int, str], GpuKernel] = {}


class OtherPacking(KernelError):
    """A program reads other packed weights than the layer has."""


class Programs:
    """The programs of a layer by bucket. All read the packed form of the weights that the first one reads.

    Whoever calls it holds the device's lock and works on the device.
    """

    def __init__(self, catalogue: Catalogue, dispatch: Dispatch, device: Device) -> None:
        self._catalogue, self._dispatch, self._device = catalogue, dispatch, device
        self._packing = ""
        self._by_bucket: list[GpuKernel | None] = [None] * len(dispatch.buckets)

    def of(self, bucket: int) -> GpuKernel:
        """The program that serves a bucket.

        Where the driver refuses the one that was selected, or it reads other packed weights, that of the
        nearest token count which does serve; the layer's selection says so from then on. Raises CudaError or
        OtherPacking where there is none, KernelError where a program is another problem's.
        """
        found = self._by_bucket[bucket]
        if found is None:
            found = self._by_bucket[bucket] = self._first(bucket)
        return found

    def _first(self, bucket: int) -> GpuKernel:
        buckets = self._dispatch.buckets
        wanted = buckets[bucket]
        refusals: list[CudaError | OtherPacking] = []
        for other in sorted(buckets, key=lambda b: abs(math.log2(b.first / wanted.first))):
            selection = other.selection
            try:
                program = self._load(selection)
            except (CudaError, OtherPacking) as error:
                refusals.append(error)
                continue
            if refusals:
                self._dispatch.replace(bucket, _instead(wanted.selection, selection, refusals[0]))
            return program
        raise refusals[0]

    def _load(self, selection: Selection) -> GpuKernel:
        text = self._catalogue.binary(selection).read_text()
        key = (self._device.index, hashlib.sha256(text.encode()).hexdigest())
        if key not in _loaded:
            program = layer_program(self._catalogue.problem, text, selection.variant)
            _loaded[key] = GpuKernel(self._device, program)
        kernel = _loaded[key]
        self._check_packing(kernel.program)
        self._packing = kernel.program.packing.digest
        return kernel

    def _check_packing(self, program: Program) -> None:
        digest = program.packing.digest
        if self._packing and digest != self._packing:
            raise OtherPacking(
                f"it reads weights packed as {digest}, and the layer's are packed as {self._packing}"
            )


def _instead(wanted: Selection, taken: Selection, error: KernelError) -> Selection:
    """The selection that serves in place of one that does not load."""
    return dataclasses.replace(
        taken,
        match="tokens" if taken.match == "exact" else taken.match,
        reason=f"{taken.reason}; in place of {wanted.variant}, which does not load here ({error})",
        tokens=wanted.tokens,
    )
