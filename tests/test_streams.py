"""Random streams."""

from __future__ import annotations

from camtrain.streams import Stream, stream, torch_seed


def test_streams_are_independent() -> None:
    draws = {stream(0, purpose, epoch, step).random() for purpose in Stream for epoch in range(3) for step in range(3)}
    assert len(draws) == len(Stream) * 9
    assert torch_seed(0, Stream.dropout, 1, 2) == torch_seed(0, Stream.dropout, 1, 2)
