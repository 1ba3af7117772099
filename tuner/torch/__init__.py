"""Torch: MoE blocks of Hugging Face transformers, run by moetune's kernels. Forward only, on CPUs.

`replace` puts a `MoELayer` in the place of every MoE block of a model, and `restore` puts the blocks back.
"""

from tuner.torch.layer import MoELayer
from tuner.torch.layouts import LAYOUTS, BlockLayout
from tuner.torch.replacing import replace, restore

__all__ = ["LAYOUTS", "BlockLayout", "MoELayer", "replace", "restore"]
