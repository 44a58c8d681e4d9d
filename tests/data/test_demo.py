"""The demo set: the same bytes from the same seed, a plausible mix of classes and sizes, and context instead of colour."""

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segnas.data.base import IGNORE
from segnas.data.demo import CLASSES, Demo
from segnas.errors import UserError

K = len(CLASSES)


def stack(dataset, split, count):
    samples = [dataset.read(split, index) for index in range(count)]
    return np.stack([sample.image for sample in samples]), np.stack([sample.label for sample in samples])


def digest(sample):
    return hashlib.sha256(sample.image.tobytes() + sample.label.tobytes()).hexdigest()


def mean_iou(predicted, label):
    """Percent, from one confusion matrix over all pixels; classes absent from both are left out."""
    counted = label != IGNORE
    matrix = np.bincount(label[counted].astype(np.int64) * K + predicted[counted], minlength=K * K).reshape(K, K)
    hit, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return 100 * float((hit[union > 0] / union[union > 0]).mean())


@pytest.fixture(scope="module")
def demo():
    return Demo()


@pytest.fixture(scope="module")
def drawn(demo):
    """(images, labels) of part of the training split, and of the whole validation split."""
    return stack(demo, "train", 160), stack(demo, "val", len(demo.splits["val"]))


def test_what_it_offers(demo):
    assert {split: len(names) for split, names in demo.splits.items()} == {"train": 400, "val": 60, "test": 60}
    assert len(set(itertools.chain(*demo.splits.values()))) == 520
    sample = demo.read("val", 3)
    assert sample.name == demo.splits["val"][3]
    assert sample.image.shape == (96, 128, 3)
    assert sample.label.shape == demo.size("val", 3) == (96, 128)
    assert sample.image.dtype == sample.label.dtype == np.uint8


def test_label_colours_are_told_apart():
    assert len(CLASSES.names) == len(CLASSES.colors) == 8
    for one, other in itertools.combinations(np.array(CLASSES.colors, int), 2):
        assert np.abs(one - other).sum() > 80


def test_a_sample_is_a_function_of_seed_split_and_index(demo):
    places = [("train", 0), ("train", 7), ("val", 0), ("test", 2)]
    other = Demo(train=9, val=4, test=3)  # neither the number of samples nor the order of reading counts
    again = {place: digest(other.read(*place)) for place in reversed(places)}
    assert [digest(demo.read(*place)) for place in places] == [again[place] for place in places]
    assert digest(Demo(seed=1).read("train", 0)) != again["train", 0]


def test_another_process_draws_the_same_bytes(demo):
    code = (
        "import hashlib; from segnas.data.demo import Demo; s = Demo().read('val', 5);"
        "print(hashlib.sha256(s.image.tobytes() + s.label.tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == digest(demo.read("val", 5))


def test_no_sample_is_drawn_twice(demo):
    digests = [digest(demo.read(split, index)) for split in demo.splits for index in range(30)]
    assert len(set(digests)) == 90


def test_the_arrays_belong_to_the_caller(demo):
    before = digest(demo.read("train", 1))
    sample = demo.read("train", 1)
    sample.image[:] = 0
    sample.label[:] = 0
    assert digest(demo.read("train", 1)) == before


def test_every_class_is_in_most_images_and_none_is_rare(drawn):
    _, label = drawn[0]
    assert set(np.unique(label)) == {*range(K), IGNORE}
    for train_id, name in enumerate(CLASSES.names):
        assert np.mean([(one == train_id).any() for one in label]) > 0.85, name
        assert 0.015 < (label == train_id).mean() < 0.4, name


def test_a_small_share_is_ignored_borders_and_bonnet(drawn):
    _, label = drawn[0]
    assert 0.01 < (label == IGNORE).mean() < 0.07
    bonnets = (label[:, -1] == IGNORE).mean(axis=1) > 0.5
    assert 0.1 < bonnets.mean() < 0.5
    assert (label[~bonnets] == IGNORE).any(axis=(1, 2)).all()


def component_sizes(mask):
    """Pixels of each 4-connected part of a mask, by letting the largest index spread."""
    index = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(index, 1)
        spread = np.max([index, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0) * mask
        if np.array_equal(spread, index):
            return np.unique(index[mask], return_counts=True)[1]
        index = spread


def test_objects_from_a_few_pixels_to_half_the_image(drawn):
    _, label = drawn[0]
    pixels = label[0].size
    cars, people = (
        np.concatenate([component_sizes(one == CLASSES.names.index(name)) for one in label[:40]]) for name in ("car", "person")
    )
    for sizes in (cars, people):
        assert np.mean(sizes < 40) > 0.1
        assert (sizes > 200).sum() > 20
    assert cars.max() > 0.15 * pixels
    assert max((one == CLASSES.names.index("building")).mean() for one in label) > 0.4


def test_other_sizes_and_what_is_refused():
    sample = Demo(size=(65, 129), train=1, val=1, test=0).read("train", 0)
    assert sample.image.shape == (65, 129, 3)
    assert "test" not in Demo(train=1, val=1, test=0).splits
    with pytest.raises(UserError, match="at least 32 pixels"):
        Demo(size=(16, 128))
    with pytest.raises(UserError, match="at least 1 image"):
        Demo(val=0)


def test_a_histogram_of_colours_fails(drawn):
    (image, label), (val_image, val_label) = drawn

    def bins(pixels):
        return (pixels.reshape(-1, 3) >> 3).astype(np.int64) @ np.array([1024, 32, 1])

    counted = label.ravel() != IGNORE
    counts = np.zeros((32**3, K))
    np.add.at(counts, (bins(image)[counted], label.ravel()[counted]), 1)
    for weights in (np.ones(K), 1 / counts.sum(0)):  # the commonest class of a colour, and the same for balanced classes
        best = (counts * weights).argmax(axis=1)
        assert mean_iou(best[bins(image)], label.ravel()) > 15  # it did learn something on what it saw
        assert mean_iou(best[bins(val_image)], val_label.ravel()) < 30


def test_a_small_network_on_single_pixels_fails(drawn):
    (image, label), (val_image, val_label) = drawn
    rng = np.random.default_rng(0)
    keep = rng.permutation(np.flatnonzero(label.ravel() != IGNORE))[:60_000]
    x = torch.from_numpy(image.reshape(-1, 3)[keep] / np.float32(255) - 0.5)
    y = torch.from_numpy(label.ravel()[keep].astype(np.int64))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, K))
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(600):
        batch = torch.arange(step * 1000, step * 1000 + 1000) % len(x)
        optimizer.zero_grad()
        F.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
    val = torch.from_numpy(val_image[:, ::2, ::2].reshape(-1, 3) / np.float32(255) - 0.5)
    with torch.no_grad():
        fitted = (network(x).argmax(1) == y).float().mean()
        predicted = network(val).argmax(1).numpy()
    assert fitted > y.bincount().max() / len(y) + 0.05  # better than always saying the commonest class
    assert mean_iou(predicted, val_label[:, ::2, ::2].ravel()) < 30


class SmallNetwork(nn.Module):
    """A U-shaped network of 0.27 million parameters with output stride 4."""

    def __init__(self, width=24):
        super().__init__()

        def convolution(inputs, outputs, stride=1):
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True))

        w = width
        self.level4 = nn.Sequential(convolution(3, w // 2, 2), convolution(w // 2, w, 2), convolution(w, w))
        self.level8 = nn.Sequential(convolution(w, 2 * w, 2), convolution(2 * w, 2 * w), convolution(2 * w, 2 * w))
        self.level16 = nn.Sequential(convolution(2 * w, 3 * w, 2), convolution(3 * w, 3 * w), convolution(3 * w, 3 * w))
        self.up8, self.up4 = convolution(5 * w, 2 * w), convolution(3 * w, 2 * w)
        self.classifier = nn.Conv2d(2 * w, K, 1)

    def forward(self, x):
        def enlarge(y, like):
            return F.interpolate(y, like.shape[-2:], mode="bilinear", align_corners=False)

        at4 = self.level4(x)
        at8 = self.level8(at4)
        y = self.up8(torch.cat([enlarge(self.level16(at8), at8), at8], 1))
        y = self.up4(torch.cat([enlarge(y, at4), at4], 1))
        return enlarge(self.classifier(y), x)


@pytest.mark.slow
def test_a_small_convolutional_network_passes_60(demo):
    (image, label), (val_image, val_label) = (stack(demo, split, len(demo.splits[split])) for split in ("train", "val"))
    mean, deviation = image.mean((0, 1, 2)), image.std((0, 1, 2))

    def tensor(pixels):
        return torch.from_numpy((pixels - mean) / deviation).permute(0, 3, 1, 2).float()

    x, y, epochs, size = tensor(image), torch.from_numpy(label).long(), 14, 8
    torch.manual_seed(0)
    network = SmallNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, epochs * (len(x) // size), 0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(size):
            flip = (lambda t: t.flip(-1)) if torch.rand(()) < 0.5 else (lambda t: t)
            optimizer.zero_grad()
            F.cross_entropy(network(flip(x[batch])), flip(y[batch]), ignore_index=IGNORE).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        predicted = torch.cat([network(part).argmax(1) for part in tensor(val_image).split(20)]).numpy()
    assert mean_iou(predicted, val_label) > 60
