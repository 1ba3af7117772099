"""Forms: the words of the field for what an expert and a router compute, and gpt-oss's constants."""

from __future__ import annotations

ACTIVATIONS = ("swiglu", "geglu", "geglu_tanh", "swiglu_clamped", "relu")
SCORES = ("softmax", "topk_softmax", "sigmoid")
# gpt-oss: transformers/models/gpt_oss/configuration_gpt_oss.py
SWIGLU_LIMIT = 7.0
SWIGLU_ALPHA = 1.702
