"""Which reader a path gets: by layout, by a format named before it, and what is said when it is none or several."""

import shutil
from pathlib import Path

import pytest
from drawn_folders import label_of, split_set, write, write_image
from published_sets import ade_set, cifar_batches, city_set, refused, voc_set

from segnas.data import absolute_data, open_dataset, task_of_data
from segnas.data.base import FromFiles
from segnas.data.cifar10 import Cifar10
from segnas.data.demo import Demo
from segnas.data.folder import Folder
from segnas.data.formats import FORMATS
from segnas.errors import UserError
from segnas.plans import plan

MAKERS = {"voc": voc_set, "cityscapes": city_set, "ade20k": ade_set, "cifar10": cifar_batches, "folder": split_set}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_found_and_can_be_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds of every reader; a new one must join MAKERS."""
    root = tmp_path / "set"
    MAKERS[name](root)
    reader = FORMATS[name]
    for data in (str(root), f"{name}:{root}"):
        dataset = open_dataset(data)
        assert type(dataset) is reader
        assert isinstance(dataset, FromFiles)
        assert task_of_data(data) == dataset.task
        assert {"train", "val"} <= {*dataset.splits}
        assert all(dataset.splits.values())
        assert list(dataset.description()) == ["path", "layout", "split", "notes"]
        for split in dataset.splits:
            sample = dataset.read(split, 0)
            assert sample.name == dataset.splits[split][0]
            assert sample.image.shape == (*dataset.size(split, 0), 3)
            assert sample.label.shape == (() if dataset.task == "classification" else sample.image.shape[:2])
    assert type(reader(root)) is reader, "the class takes the same paths"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert isinstance(open_dataset(f"{name}:~/set"), reader)
    assert isinstance(open_dataset("~/set"), reader)


def test_the_demo_and_folders_are_found_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_dataset("demo"), Demo)
    assert task_of_data("demo") == "segmentation"
    monkeypatch.chdir(tmp_path)
    split_set(tmp_path / "demo")
    assert isinstance(open_dataset("./demo"), Folder)
    assert isinstance(open_dataset("folder:demo"), Folder)


def test_the_task_is_known_without_reading_the_set(tmp_path: Path) -> None:
    inner = cifar_batches(tmp_path)
    for path in inner.iterdir():
        path.write_bytes(b"")
    assert task_of_data(str(inner)) == task_of_data(str(tmp_path)) == task_of_data(f"cifar10:{tmp_path}") == "classification"
    for data in ("absent", str(inner / "test_batch"), str(tmp_path.parent / "nothing"), "cifar11:x", "voc:"):
        assert task_of_data(data) == "segmentation"
    assert task_of_data("cifar10:absent") == "classification", "so that it is the folder that is found missing"


def test_a_folder_whose_name_looks_like_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    split_set(tmp_path / "voc:x")
    split_set(tmp_path / "mine:x")
    assert "there is no folder x; give a folder with VOCdevkit/VOC2012/" in refused("voc:x")
    assert isinstance(open_dataset("./voc:x"), Folder)
    assert isinstance(open_dataset("mine:x"), Folder)
    assert refused("voce:x") == "unknown data format 'voce' in 'voce:x'; did you mean 'voc'?"
    assert "unknown data format 'lmdb'" in refused("lmdb:x")
    assert refused("voc:") == "'voc:' names no folder; write voc:DIR"


def test_a_run_finds_its_data_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute_data("demo") == "demo"
    assert absolute_data("a/b") == f"{tmp_path}/a/b"
    assert absolute_data("voc:a/b") == f"voc:{tmp_path}/a/b"
    assert absolute_data("./voc:a") == f"{tmp_path}/voc:a"
    assert absolute_data("cifar10:~/data") == "cifar10:/home/me/data"
    assert absolute_data(absolute_data("voc:a")) == absolute_data("voc:a")
    assert plan("auto-deeplab", "voc:a", "quick").dataset == f"voc:{tmp_path}/a"
    with pytest.raises(UserError, match="unknown data format 'vocs'"):
        plan("auto-deeplab", "vocs:a", "quick")


def test_a_named_format_is_not_looked_for(tmp_path: Path) -> None:
    inner = ade_set(tmp_path)
    assert isinstance(open_dataset(f"folder:{inner}"), Folder)
    text = refused(f"voc:{inner}")
    assert f"{inner} is no complete PASCAL VOC set: it has no folder JPEGImages; expected VOCdevkit/" in text
    assert "it has no folder leftImg8bit" in refused(f"cityscapes:{split_set(tmp_path / 'mine')}")
    assert "it has no folder annotations" in refused(f"ade20k:{tmp_path / 'mine'}")
    assert "data_batch_1 is missing" in refused(f"cifar10:{tmp_path / 'mine'}")
    for name in ("voc", "cityscapes", "ade20k", "cifar10"):
        assert "there is no folder" in refused(f"{name}:{tmp_path / 'absent'}")
        (tmp_path / "file").write_text("")
        assert "is a file; give the folder with" in refused(f"{name}:{tmp_path / 'file'}")
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert "is empty; expected" in refused(f"{name}:{tmp_path / 'empty'}")


def test_several_sets_in_one_folder(tmp_path: Path) -> None:
    voc_set(tmp_path)
    city_set(tmp_path)
    cifar_batches(tmp_path)
    assert refused(tmp_path) == (
        f"{tmp_path} holds several data sets; say which: voc:{tmp_path} (PASCAL VOC), cityscapes:{tmp_path} (Cityscapes), "
        f"cifar10:{tmp_path} (CIFAR-10)"
    )
    assert isinstance(open_dataset(f"cifar10:{tmp_path}"), Cifar10)
    assert task_of_data(str(tmp_path)) == "segmentation"
    assert task_of_data(f"cifar10:{tmp_path}") == "classification"


def test_sets_in_the_folders_of_a_folder(tmp_path: Path) -> None:
    voc_set(tmp_path / "voc")
    (tmp_path / "notes").mkdir()
    assert refused(tmp_path) == f"{tmp_path} is no data set; did you mean {tmp_path / 'voc'} (PASCAL VOC)?"
    city_set(tmp_path / "streets")
    split_set(tmp_path / "mine")
    assert refused(tmp_path) == (
        f"{tmp_path} holds several data sets, name one of them: mine (folder of images and masks), streets (Cityscapes), "
        "voc (PASCAL VOC)"
    )
    for name in ("streets", "voc"):
        shutil.rmtree(tmp_path / name)
    assert refused(tmp_path).endswith(f"does not hold images and masks side by side; did you mean {tmp_path / 'mine'}?")


def test_a_file_of_a_set_is_no_set(tmp_path: Path) -> None:
    inner = cifar_batches(tmp_path)
    assert refused(inner / "data_batch_1").endswith(f"a set in the layout of CIFAR-10; did you mean {inner}?")


def test_a_folder_of_images_beside_other_things_stays_one(tmp_path: Path) -> None:
    """What was read as a folder of images and masks is not taken for another set because of a file or folder in it."""
    split_set(tmp_path)
    for name in ("train.npz", "test.npz"):
        (tmp_path / name).write_bytes(b"features of mine")
    voc_set(tmp_path)
    assert isinstance(open_dataset(tmp_path), Folder)
    assert "did you mean" not in refused(tmp_path / "train.npz")


def test_a_folder_beside_a_published_set_is_not_part_of_it(tmp_path: Path) -> None:
    voc_set(tmp_path)
    write_image(tmp_path / "mine/pictures/a.png", label_of(0))
    write(tmp_path / "mine/truth/a.png", label_of(0))
    assert "holds neither images/ nor masks/" in refused(tmp_path / "mine")


def test_camvid_is_a_folder(shared: Path) -> None:
    assert isinstance(open_dataset(shared / "data/camvid"), Folder)
    text = refused(shared / "data/formats")
    for part in ("voc (PASCAL VOC)", "cityscapes_small_256x128 (Cityscapes)", "ade20k (ADE20K)"):
        assert part in text


def test_the_page_lists_every_format() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert [name for name in FORMATS if not any(f"`{name}:DIR`" in row for row in rows)] == []
