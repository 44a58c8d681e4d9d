"""Small drawn scenes, a narrow network and a device, shared by the tests of estimators."""

from __future__ import annotations

import pytest

from segnas.data.demo import Demo
from segnas.data.statistics import measure_normalization
from segnas.data.transforms import DataConfig, Normalization
from segnas.training.device import Device, DeviceConfig, launch


@pytest.fixture(scope="session")
def demo() -> Demo:
    return Demo(size=(48, 64), train=14, val=2)


@pytest.fixture(scope="session")
def normalization(demo: Demo) -> Normalization:
    return measure_normalization(demo)


@pytest.fixture(scope="session")
def data() -> DataConfig:
    return DataConfig(crop=(33, 49), resize=0.75, scale=(0.8, 1.25))


@pytest.fixture(scope="session")
def device() -> Device:
    return launch(DeviceConfig(accelerator="cpu"))
