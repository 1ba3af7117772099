"""GPU: the host side of GPU kernels: the CUDA driver, programs, packed weights and scratch memory."""
