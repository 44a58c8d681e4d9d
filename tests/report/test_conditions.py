"""What a headline or a card must not leave out, and which sentences are warnings."""

import re
from collections.abc import Callable

import pytest

from segnas.report import write_report
from segnas.report.cautions import cautions
from segnas.report.information import Block, HierarchicalArchitecture, Information, gather
from segnas.report.page import in_words
from segnas.report.sections import summary
from segnas.report.trellis import trellis_caption
from segnas.runs.run import Run


def change(run: Run, name: str, **values: object) -> None:
    run.write_json(name, {**run.read_json(name), **values})


def headline(run: Run) -> str:
    return in_words(gather(run)).replace("\u00a0", " ")


def cards(information: Information) -> list[str]:
    return re.findall(r'<span class="below">(.*?)</span>', summary(information, ()).body)


def add_test(run: Run, name: str = "evaluation_test.json", **protocol: object) -> None:
    evaluation = run.read_json("evaluation.json")
    described = {**evaluation["protocol"], "split": "test", "images": 233, **protocol}
    run.write_json(name, {**evaluation, "split": "test", "mIoU": 54.321, "protocol": described})


def test_plain_conditions_need_no_words(make_run: Callable[[], Run]) -> None:
    run = make_run()
    assert "reaches 61.9 % mIoU over 11 classes on the val split, 2.9 points above a U-Net of equal cost" in headline(run)
    assert "answers in 148 ms on cpu. The exported file gives" in headline(run)
    assert cards(gather(run))[:1] == ["val, 101 images"]
    assert "cpu, 360 × 480" in cards(gather(run))


def test_the_figure_of_test_comes_first_and_val_beside_it(make_run: Callable[[], Run]) -> None:
    run = make_run()
    add_test(run)
    add_test(run, "evaluation_test_0.5-1_flip.json", scales=[0.5, 1.0], flip=True)
    assert "reaches 54.3 % mIoU over 11 classes on the test split (61.9 % on val)" in headline(run)
    below = ["test, 233 images", "test, 233 images, scales 0.5 and 1, flipped", "val, 101 images"]
    assert cards(gather(run))[:3] == below


def test_several_views_are_told(make_run: Callable[[], Run]) -> None:
    run = make_run()
    add_test(run, "evaluation_test_0.5-1_flip.json", scales=[0.5, 1.0], flip=True, precision="bfloat16 (mixed)")
    told = "(scales 0.5 and 1, flipped; bfloat16 (mixed); 61.9 % on val with one scale, not flipped)"
    assert told in headline(run)


def test_the_conditions_of_a_latency_are_told(make_run: Callable[[], Run]) -> None:
    run = make_run()
    change(run, "latency.json", input=[8, 3, 512, 1024], precision="bfloat16 (mixed)")
    assert "148 ms for a batch of 8 images at 512 × 1024 in bfloat16 (mixed) on cpu" in headline(run)
    assert "cpu, 512 × 1024, a batch of 8 images, bfloat16 (mixed), not the size of the multiply-adds" in cards(gather(run))


def test_the_size_of_the_exported_file_is_told_when_it_is_another(make_run: Callable[[], Run]) -> None:
    run = make_run()
    change(run, "parity.json", size=[360, 480])
    assert "images of" not in headline(run).split("multiply-adds for an image of")[1]
    change(run, "parity.json", size=[256, 512])
    assert headline(run).endswith("The exported file, for images of 256 × 512, gives the same answers as the trained network.")
    assert "model.onnx, for images of 256 × 512, same answers as trained" in cards(gather(run))


def test_a_class_without_labels_is_not_said_to_be_missed(make_run: Callable[[], Run]) -> None:
    run = make_run()
    classes = run.read_json("evaluation.json")["classes"]
    classes[2].update(IoU=0.0, pixels=0.0, accuracy=None)
    classes[6].update(IoU=0.0, pixels=600.0, accuracy=0.0)
    change(run, "evaluation.json", classes=classes)
    texts = [item.text for item in cautions(gather(run))]
    assert f"Never found on the val split: {classes[6]['name']}." in texts
    predicted = f"{classes[2]['name']}: predicted, though not labelled in this split (val); its IoU of 0 counts in the mean."
    assert predicted in texts


def test_where_the_data_come_from_is_no_warning(make_run: Callable[[], Run]) -> None:
    run = make_run()
    change(run, "data.json", notes=["classes from classes.json", "4 images are in no list and left out"])
    texts = [item.text for item in cautions(gather(run))]
    assert "classes from classes.json" not in texts
    assert "4 images are in no list and left out" in texts
    html = write_report(run).read_text(encoding="utf-8")
    assert "<dt>note</dt><dd>classes from classes.json</dd>" in html


def test_another_environment_later_on_is_shown(make_run: Callable[[], Run]) -> None:
    run = make_run()
    first = run.read_json("environment.json")
    packages = {**first["packages"], "torch": "2.14.0"}
    assert "was continued" not in write_report(run).read_text(encoding="utf-8")
    change(run, "environment.json", later=[{**first, "packages": packages, "device": "cuda (H200)"}])
    html = write_report(run).read_text(encoding="utf-8")
    assert "continued in another environment (device and packages); the differences stand" in html
    differences = html.split("It was continued in another one")[1].split("</dl>")[0]
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", differences) == [("packages.torch", "2.14.0"), ("device", "cuda (H200)")]


def test_another_command_alone_is_no_other_environment(make_run: Callable[[], Run]) -> None:
    """A resume names other words than the first command, on the same machine with the same packages."""
    run = make_run()
    first = run.read_json("environment.json")
    again = {**first, "command": f"{first['command']} --resume"}
    change(run, "environment.json", later=[again])
    assert "was continued" not in write_report(run).read_text(encoding="utf-8")
    change(run, "environment.json", later=[again, {**again, "git_revision": "abc"}])
    texts = [item.text for item in cautions(gather(run)) if "was continued" in item.text]
    assert len(texts) == 1
    assert "in another environment (git revision);" in texts[0]
    assert write_report(run).read_text(encoding="utf-8").count("It was continued in another one") == 1


@pytest.mark.parametrize(("cards_shown", "columns"), [(5, 5), (6, 3)])
def test_no_card_stands_alone_in_a_second_row(make_run: Callable[[], Run], cards_shown: int, columns: int) -> None:
    run = make_run()
    if cards_shown == 6:
        add_test(run)
    information = gather(run)
    assert len(cards(information)) == cards_shown
    assert f"--columns:{columns}" in summary(information, ()).body


def test_one_block_is_told_in_the_singular() -> None:
    block = Block((0, 1), ("skip_connect", "skip_connect"))
    one = HierarchicalArchitecture((0,), (block,), {"filters": 8})
    assert "The cell's one block has 8 channels" in trellis_caption(one, None)
    two = HierarchicalArchitecture((0,), (block, block), {"filters": 8})
    assert "Each of the 2 blocks has 8 channels" in trellis_caption(two, None)
