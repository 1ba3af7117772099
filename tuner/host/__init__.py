"""Host: this machine and its files: processes, the toolchain, folders, locks, cores and caches."""
