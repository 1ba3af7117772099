"""CPU: the host side of a CPU kernel: its library, its worker pool and its buffers."""
