"""Forms: the words of the field for what an expert and a router compute, and gpt-oss's constants."""

from __future__ import annotations

from tuner.problem.dtypes import DTYPES

ACTIVATIONS = ("swiglu", "geglu", "geglu_tanh", "swiglu_clamped", "relu")
SCORES = ("softmax", "topk_softmax", "sigmoid")
# As tuner.gpu.kernel asks for it; everybody else has the table itself.
DTYPE_BYTES = {name: row.bytes for name, row in DTYPES.items()}
# gpt-oss: transformers/models/gpt_oss/configuration_gpt_oss.py
SWIGLU_LIMIT = 7.0
SWIGLU_ALPHA = 1.702
