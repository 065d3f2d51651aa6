"""From the configuration to the training and validation pictures."""

from __future__ import annotations

from camtrain.config import DatasetConfig, FakeConfig, FolderConfig, ShapesConfig
from camtrain.data import fake, shapes
from camtrain.data.folder import FolderPictures
from camtrain.data.pictures import ArrayPictures, Pictures


def build(config: DatasetConfig, seed: int) -> tuple[Pictures, Pictures]:
    """Training and validation pictures. Generated sets are functions of the seed."""
    match config:
        case FolderConfig():
            train = FolderPictures(config, config.train_split)
            return train, FolderPictures(config, config.val_split, train.classes)
        case ShapesConfig(train=train_count, val=val_count, image_size=size, objects=objects):
            return (
                ArrayPictures(shapes.CLASSES, *shapes.generate(train_count, size, seed, 0, objects)),
                ArrayPictures(shapes.CLASSES, *shapes.generate(val_count, size, seed, 1, objects)),
            )
        case FakeConfig(classes=classes, image_size=size):
            names = [f"class_{number}" for number in range(classes)]
            return (
                ArrayPictures(names, *fake.generate(config.train, size, classes, seed, split=0)),
                ArrayPictures(names, *fake.generate(config.val, size, classes, seed, split=1)),
            )
    raise AssertionError(f"no data set is called {config.name}")
