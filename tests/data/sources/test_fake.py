"""Generated noise with boxes."""

from __future__ import annotations

from camtrain.config.schema import FakeConfig
from camtrain.data.build import build


def test_fake() -> None:
    train, val = build(FakeConfig(classes=4, train=8, val=4, image_size=16), seed=0)
    assert len(train.classes) == 4
    assert train.gather([0, 1])[1].amax((1, 2)).tolist() == [1, 1]
    assert len(val.targets) == 4
