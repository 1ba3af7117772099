"""Bundles: tuned kernels in one file that verifies itself and runs without a compiler.

Reading and running one needs NumPy alone, and `cryptography` where its signature is asked for.
"""

from tuner.bundle.catalogue import BundleCatalogue, open_bundle

__all__ = ["BundleCatalogue", "open_bundle"]
