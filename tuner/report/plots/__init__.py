"""Plots: figures as SVG to stand in a page."""
