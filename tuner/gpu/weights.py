"""Weights of a layer in a GPU's memory: checked and packed on the host, copied once."""

from __future__ import annotations

import dataclasses
import weakref

from tuner.errors import WeightsError
from tuner.gpu.arrays import to_host
from tuner.gpu.driver import Address, Device
from tuner.gpu.pack import Packing
from tuner.problem import Problem
from tuner.problem.weights import Weights


class GpuWeights:
    """A packed copy in device memory, which is freed with the last reference to this.

    Attributes:
        packing: how it was packed.
        addresses: by the names that kernels give them.
        bytes: of all.
    """

    def __init__(self, device: Device, problem: Problem, packing: Packing, given: Weights) -> None:
        """Raises WeightsError where an array does not fit, KernelError where the packing does not, CudaError
        where there is not enough memory.

        The given arrays may lie on the GPU, too (torch, DLPack); they are not kept.
        """
        self.packing = packing
        packed = packing.pack(_checked(device, problem, given))
        self.bytes = sum(array.nbytes for array in packed.values())
        self.addresses: dict[str, Address] = {}
        end = weakref.finalize(self, _free, device, self.addresses)
        end.atexit = False  # the driver frees what a process leaves
        for name in list(packed):
            self.addresses[name] = device.upload(packed.pop(name))
        device.wait(0)  # a copy from host memory may still be on its way when its call returns


def _checked(device: Device, problem: Problem, given: Weights) -> Weights:
    values = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
    checked = Weights(**{n: to_host(n, v, device) for n, v in values.items()}).check(problem)
    if checked.router.dtype != checked.up.dtype:
        own = checked.up.dtype
        raise WeightsError(
            f"router: is {checked.router.dtype}, and kernels for GPUs read one in {own} alone; cast it to {own}"
        )
    return checked


def _free(device: Device, addresses: dict[str, Address]) -> None:
    with device.current():
        for address in addresses.values():
            device.free(address)
