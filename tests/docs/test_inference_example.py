"""The program printed in docs/inference.md, run as a reader would: in a folder with model.onnx and a photograph."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnas.data.base import Classes, Sample, palette
from segnas.data.transforms import Normalization, resize_image
from segnas.nets.build import build
from segnas.spaces.auto_deeplab import AutoDeepLab, Block, NetworkOptions
from segnas.training.model import TrainedModel

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inference.md"


def example() -> str:
    (block,) = re.findall(r"<!-- a test runs this block -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return block


def test_it_is_short_and_needs_three_packages():
    lines = [line for line in example().splitlines() if line]
    imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"json", "numpy", "onnxruntime", "PIL"}
    assert len(lines) - len(imported) == 10
    assert max(map(len, lines)) <= 130


def test_it_runs_and_gives_the_classes_of_the_trained_network(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx_file = pytest.importorskip("segnas.export.onnx_file")
    options = NetworkOptions(filters=2, stem=(4, 4, 4), aspp_width=4, low_level_width=2, decoder_width=4)
    architecture = AutoDeepLab((1,), (Block((0, 1), ("skip_connect", "atrous_conv_3x3")),), options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(architecture, 3).train()
    photo = np.random.default_rng(0).integers(0, 256, (45, 80, 3)).astype(np.uint8)
    photo[:20, 30:] //= 4
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    size = (40, 56)
    seen = normalization(resize_image(photo, size))[None]
    with torch.no_grad():
        network(torch.cat([seen, -seen]))
        head = network.logits  # classes by the value f of one direction of its features: low, within half a deviation, high
        head.weight[1:].copy_(torch.stack([torch.zeros_like(head.weight[0]), -head.weight[0]]))
        head.bias.zero_()
        f = network.eval()(seen)[:, 0]
        head.bias.copy_(torch.stack([-f.mean(), f.std() / 2, f.mean()]))
    model = TrainedModel(architecture, network, Classes(("road", "sky", "car"), palette(3)), normalization)
    parity = onnx_file.export_onnx(model, size, tmp_path / "model.onnx", [Sample("street", photo, np.zeros((45, 80), np.uint8))])
    assert parity.agreement == 1

    Image.fromarray(photo).save(tmp_path / "street.png")
    (tmp_path / "example.py").write_text(example(), encoding="utf-8")
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    with torch.inference_mode():
        classes = network(seen).argmax(1)[0].numpy()
    shares = [(classes == number).mean() for number in range(3)]
    assert min(shares) > 0
    expected = [f"{name}: {share:.1%}" for name, share in zip(("road", "sky", "car"), shares, strict=True)]
    assert done.stdout.splitlines() == expected
    colors = np.array(palette(3), dtype=np.uint8)[classes]
    picture = np.asarray(Image.open(tmp_path / "street_classes.png"))
    assert picture.shape == photo.shape
    np.testing.assert_array_equal(picture, np.asarray(Image.fromarray(colors).resize((80, 45), Image.Resampling.NEAREST)))
