"""Problem: what is asked: a layer's sizes and forms, its weights, and the work that it gets."""

from tuner.problem.problem import PRESETS, Problem

__all__ = ["PRESETS", "Problem"]
