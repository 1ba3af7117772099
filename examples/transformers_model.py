"""Runs the MoE blocks of a transformers model on moetune's kernels.

    python examples/transformers_model.py

The model is a small Mixtral with random weights; `from_pretrained` gives a real one. Needs torch and
transformers.
"""

from __future__ import annotations

import torch
import transformers

import tuner.torch

CONFIG = transformers.MixtralConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=4,
)


def main() -> None:
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(CONFIG).eval()
    ids = torch.randint(0, CONFIG.vocab_size, (1, 12))
    with torch.no_grad():
        before = model(ids).logits
        places = tuner.torch.replace(model)
        after = model(ids).logits
    print(f"replaced: {', '.join(places)}")
    print(f"logits differ by at most {(after - before).abs().max() / before.abs().max():.1e}")


if __name__ == "__main__":
    main()
