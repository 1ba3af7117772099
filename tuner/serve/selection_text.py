"""The text of an answer to ``best``: a Selection as JSON, put together of parts that are kept.

``encode(selection.to_json())`` gives the very same and takes several times as long.
"""

from __future__ import annotations

import functools

from tuner.select.select import Fallback, Found
from tuner.serve.stored_row import StoredRow, encode
from tuner.space.variant import Variant
from tuner.target import Target


def text(chosen: Found | Fallback) -> str:
    """JSON without spaces, its fields in the order of ``Selection.to_json``. A winner's row is a StoredRow."""
    request = chosen.request
    if isinstance(chosen, Fallback):
        target, what = request.target, _variant_text(chosen.variant)
        match, distance, evidence = "default", "null", "{}"
    else:
        assert isinstance(chosen.row, StoredRow)
        target, what = chosen.group.target, chosen.row.variant_text()
        match, distance = chosen.match, encode(chosen.distance)
        evidence = chosen.row.evidence_text(_key_text(target))
    return (
        f'{what},"match":"{match}","reason":{encode(chosen.reason)},"distance":{distance},'
        f'"evidence":{evidence},"tokens":{request.tokens},"load":{encode(request.load)},'
        f'"target":{_key_text(target)},"source":"{chosen.source}","arch":{encode(target.arch)}}}'
    )


@functools.lru_cache(maxsize=1024)
def _variant_text(variant: Variant) -> str:
    """The fields that say what to run, without the closing brace."""
    fields = {
        "template": variant.template,
        "variant": variant.name,
        "config": variant.config,
        "pack": variant.pack,
    }
    return encode(fields)[:-1]


@functools.lru_cache(maxsize=1024)
def _key_text(target: Target) -> str:
    return encode(target.key)
