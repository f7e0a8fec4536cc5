"""The internals of httpx2 that agentpipe uses: this fails first when they change."""

from __future__ import annotations

import inspect

import pytest
from httpx2 import _decoders as decoders

MIB = 1024 * 1024


@pytest.mark.parametrize(
    "part", [decoders.ZlibDecompressor, decoders.BrotliDecoder, decoders.ZStandardDecoder]
)
def test_each_encoding_is_decoded_piece_by_piece(part: type) -> None:
    """Even if its package is not installed here: a few bytes can expand to gigabytes."""
    decode = getattr(part, "decode", None) or part.decompress  # type: ignore[attr-defined]
    assert "MAX_DECODE_CHUNK_SIZE" in inspect.getsource(decode)
    assert decoders.MAX_DECODE_CHUNK_SIZE <= MIB


def test_no_other_encoding_is_decoded() -> None:
    known = {"identity", "gzip", "deflate", "br", "zstd"}
    assert decoders.SUPPORTED_DECODERS.keys() <= known
