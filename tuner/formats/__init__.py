"""Formats: the quantised types of weights on disk, to and from float32, in NumPy."""

from tuner.formats.format import Format, relative_error
from tuner.formats.k_quants import K_QUANTS
from tuner.formats.simple import SIMPLE
from tuner.formats.tables import TABLES

FORMATS: dict[str, Format] = {row.name: row for row in (*SIMPLE, *K_QUANTS, *TABLES)}

__all__ = ["FORMATS", "Format", "relative_error"]
