"""The search of Auto-DeepLab on a tiny set: its parts, its records, what it may not touch."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import Drawn, MakeJob, tiny_config

import segnas
from segnas.config import replace
from segnas.costs.counts import count
from segnas.data.loading import halves
from segnas.errors import UserError
from segnas.nets import build
from segnas.nets.auto_deeplab_supernet import Mixture
from segnas.spaces.architecture import from_json, identity
from segnas.spaces.auto_deeplab import OPERATIONS, AutoDeepLab, AutoDeepLabSpace, Block
from segnas.spaces.choice import encode, from_indices
from segnas.systems.auto_deeplab import SYSTEM, Relaxation, Search, SearchConfig, decode, preflight, search
from segnas.systems.base import all_systems
from segnas.systems.settings import run_preset, run_presets
from segnas.systems.supernet_search import best

RECORD = {
    "epoch": int,
    "loss_weights": float,
    "entropy_alpha": float,
    "entropy_beta": float,
    "skip_share": float,
    "score_supernet": float,
    "score_one_hot": float,
    "parameters": int,
    "multiply_adds": int,
    "architecture": dict,
    "id": str,
}


def test_the_relaxation_is_normalised_over_the_moves_that_leave_each_node() -> None:
    config = SearchConfig(layers=5, blocks=3)
    relaxation = Relaxation(config, seed=3)
    torch.nn.init.normal_(relaxation.alpha, std=3.0)
    torch.nn.init.normal_(relaxation.beta, std=3.0)
    mixture = relaxation.mixture()
    assert mixture.alpha.shape == (9, 8)
    torch.testing.assert_close(mixture.alpha.sum(-1), torch.ones(9))
    logits = relaxation.beta.detach().double().numpy()
    for layer in range(5):
        for level in range(4):
            row = mixture.beta[layer, level].detach().double().numpy()
            legal = [column for column, move in enumerate((-1, 0, 1)) if 0 <= level + move <= 3]
            expected = np.zeros(3)
            if level <= layer:  # the stem is one node of level 0; a level more exists with each layer
                raised = np.exp(logits[layer, level, legal])
                expected[legal] = raised / raised.sum()
            np.testing.assert_allclose(row, expected, atol=1e-6)


def test_the_gradient_reaches_every_alpha_and_every_beta_of_an_existing_node(make_job: MakeJob) -> None:
    """`none` too (through the softmax), the borders too, and the layers where a node has one direction."""
    this = Search(make_job(config=tiny_config(layers=5)))
    this.supernet.double().train()
    this.relaxation.double()
    batch, _ = next(this.pairs())
    mixture = this.relaxation.mixture()
    logits = this.supernet(batch.images.double(), mixture)
    loss = torch.nn.functional.cross_entropy(logits, batch.labels, ignore_index=255)
    alpha, beta = torch.autograd.grad(loss, [this.relaxation.alpha, this.relaxation.beta])
    assert alpha.all()
    for layer in range(5):
        for level in range(4):
            for column, move in enumerate((-1, 0, 1)):
                leads_somewhere = level <= layer and 0 <= level + move <= 3
                assert bool(beta[layer, level, column] != 0) == leads_somewhere, (layer, level, move)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operations", [OPERATIONS, ("skip_connect", "none", "sep_conv_5x5")])
def test_what_is_decoded_lies_in_the_space_and_never_holds_none(seed: int, operations: tuple[str, ...]) -> None:
    config = SearchConfig(layers=6, blocks=4, operations=operations)
    generator = torch.Generator().manual_seed(seed)
    relaxation = Relaxation(config, seed)
    with torch.no_grad():
        relaxation.alpha.normal_(generator=generator)
        relaxation.alpha[:, operations.index("none")] += 5.0  # `none` dominates everywhere
        relaxation.beta.normal_(generator=generator)
    network = tiny_config().network
    found = decode(relaxation.mixture(), config, network)
    space = AutoDeepLabSpace(6, 4, operations, network)
    assert from_indices(space, encode(space, found)) == found
    for block in found.cell:
        assert block.inputs[0] < block.inputs[1]
        assert "none" not in block.operations
    assert build(found, 3)(torch.zeros(2, 3, 33, 33)).shape == (2, 3, 33, 33)


def test_the_search_writes_complete_records(make_job: MakeJob) -> None:
    config = tiny_config(epochs=4, architecture_from_epoch=2)
    job = make_job(config=config)
    found = search(job)
    written = job.run.read_json("search.json")
    records = written["epochs"]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    for record in records:
        for key, kind in RECORD.items():
            assert isinstance(record[key], kind), key
        assert record["loss_weights"] > 0
        assert 0 <= record["score_supernet"] <= 100
        assert 0 <= record["score_one_hot"] <= 100
        architecture = from_json(record["architecture"])
        assert record["id"] == identity(architecture)
        used = [name for block in architecture.cell for name in block.operations]
        assert record["skip_share"] == used.count("skip_connect") / 4
        costs = count(architecture, (40, 44), 3)
        assert (record["parameters"], record["multiply_adds"]) == (costs.parameters, costs.multiply_adds)
    assert [record["loss_architecture"] is None for record in records] == [True, True, False, False]
    assert all(record["loss_architecture"] > 0 for record in records[2:])
    assert records[0]["id"] == records[1]["id"], "alpha and beta rest before their epoch"
    assert records[0]["entropy_alpha"] == records[1]["entropy_alpha"] == pytest.approx(math.log(8), abs=1e-4)
    assert records[1]["entropy_beta"] != records[2]["entropy_beta"] != records[3]["entropy_beta"]

    assert from_json(records[-1]["architecture"]) == found
    assert np.array(written["alpha"]).shape == (5, 8)
    np.testing.assert_allclose(np.array(written["alpha"]).sum(-1), 1, atol=1e-6)
    assert np.array(written["beta"]).shape == (2, 4, 3)
    assert written["operations"] == list(OPERATIONS)
    assert written["edges"] == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert (written["last_epoch"], written["select"], written["system"]) == (4, "last", "auto-deeplab")
    assert written["seconds"] > 0
    chosen = max(records[2:], key=lambda record: record["score_one_hot"])
    assert written["best_epoch"] == chosen["epoch"]
    for name, record in (("last", records[-1]), ("best", chosen)):
        kept = job.run.read_json(f"architecture_{name}.json")
        assert from_json(kept) == from_json(record["architecture"])
        assert kept["provenance"] == {
            "system": "auto-deeplab",
            "epoch": record["epoch"],
            "score_one_hot": record["score_one_hot"],
        }
    logged = job.run.metrics("search")
    assert {row["step"] for row in logged} == {1, 2, 3, 4}
    assert [row["value"] for row in logged if row["name"] == "score_one_hot"] == [record["score_one_hot"] for record in records]


def test_the_search_sees_the_training_set_alone_in_two_disjoint_halves(make_job: MakeJob) -> None:
    dataset = Drawn(forbidden=("val", "test"))
    job = make_job(config=tiny_config(epochs=2), dataset=dataset)
    preflight(job)
    search(job)
    assert {split for split, _ in dataset.seen} == {"train"}
    this = Search(job)
    half_a, half_b = set(this.train_a.indices), set(this.train_b.indices)
    assert not half_a & half_b
    assert half_a | half_b == set(range(9))
    assert set(this.scored.indices) <= half_b
    assert (half_a, half_b) == tuple(map(set, halves(9, 0)))
    names = {name for epoch in range(4) for a, _ in _epoch(this, epoch) for name in a.names}
    others = {name for epoch in range(4) for _, b in _epoch(this, epoch) for name in b.names}
    assert names <= {f"t{index}" for index in half_a}
    assert others <= {f"t{index}" for index in half_b}


def _epoch(this: Search, epoch: int) -> list[tuple[Any, Any]]:
    this.epoch, this.step = epoch, 0
    return list(this.pairs())


def test_weights_learn_on_train_a_and_the_architecture_on_train_b(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the set epoch weights alone move; the gradient that moves either comes from its own half."""
    this = Search(make_job())
    seen: list[tuple[int, bool]] = []  # where the labels lie, and whether alpha and beta may learn from them
    loss = this.loss

    def watched(images: torch.Tensor, labels: torch.Tensor, mixture: Mixture) -> torch.Tensor:
        seen.append((labels.data_ptr(), mixture.alpha.requires_grad or mixture.beta.requires_grad))
        return loss(images, labels, mixture)

    monkeypatch.setattr(this, "loss", watched)
    batch_a, batch_b = next(this.pairs())
    half_a, half_b = batch_a.labels.data_ptr(), batch_b.labels.data_ptr()
    logits = [variable.clone() for variable in this.variables]
    weights = [weight.clone() for weight in this.weights]
    this.search_step(batch_a, batch_b)
    assert seen == [(half_a, False)]
    assert all(torch.equal(now, then) for now, then in zip(this.variables, logits, strict=True))
    assert any(not torch.equal(now, then) for now, then in zip(this.weights, weights, strict=True))
    this.epoch = 1
    seen.clear()
    this.search_step(batch_a, batch_b)
    assert seen == [(half_a, False), (half_b, True)]
    assert all(not torch.equal(now, then) for now, then in zip(this.variables, logits, strict=True))
    assert all(tensor.grad is None for tensor in [*this.variables, *this.weights])


def test_the_learning_rate_follows_half_a_cosine(make_job: MakeJob) -> None:
    this = Search(make_job())
    rates = []
    for epoch in range(3):
        this.epoch, this.step = epoch, 0
        for pair in this.pairs():
            this.search_step(*pair)
            rates.append(this.weight_optimizer.param_groups[0]["lr"])
    expected = [0.001 + 0.024 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert this.architecture_optimizer.param_groups[0]["lr"] == 3e-3


def test_the_same_seed_gives_the_same_search_and_another_seed_another(make_job: MakeJob) -> None:
    config = tiny_config(epochs=1, architecture_from_epoch=0)
    first, again = make_job("first", config), make_job("again", config)
    search(first)
    torch.manual_seed(99)  # whatever was drawn before
    np.random.seed(99)
    search(again)
    assert without_seconds(first.run.read_json("search.json")) == without_seconds(again.run.read_json("search.json"))
    other = make_job("other", replace(config, seed=1))
    search(other)
    assert other.run.read_json("search.json")["alpha"] != first.run.read_json("search.json")["alpha"]


def test_a_preflight_leaves_the_random_state_and_the_search_as_they_were(make_job: MakeJob) -> None:
    config = tiny_config(epochs=2)
    plain, checked = make_job("plain", config), make_job("checked", config)
    search(plain)
    state = torch.get_rng_state()
    measured = preflight(checked)
    assert torch.equal(torch.get_rng_state(), state)
    assert {path.name for path in checked.run.path.iterdir()} == {"checkpoints", ".lock", "config.yaml"}, "nothing is written"
    search(checked)
    assert without_seconds(plain.run.read_json("search.json")) == without_seconds(checked.run.read_json("search.json"))
    assert measured.stage == "search"
    assert measured.steps == 4
    assert measured.seconds > measured.seconds_per_step * 2, "steps, and the scoring of each epoch"
    weights = sum(tensor.nbytes for tensor in Search(plain).supernet.state_dict().values())
    assert measured.state_bytes == 4 * weights


def without_seconds(written: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in written.items() if key != "seconds"}


def test_the_best_is_the_best_scored_epoch_that_trained_the_architecture() -> None:
    config = tiny_config(epochs=5, architecture_from_epoch=2).search
    scores = [9.0, 8.0, 3.0, 5.0, 5.0]
    history = [{"epoch": epoch, "score_one_hot": score} for epoch, score in enumerate(scores, start=1)]
    assert best(history, config)["epoch"] == 4
    assert best(history[:2], config)["epoch"] == 1, "nothing is decided yet"


@pytest.mark.parametrize("select", ["last", "best"])
def test_select_says_which_architecture_is_returned(select: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are made up so that the best is not the last."""
    made_up = iter([10.0, 10.0, 10.0, 50.0, 10.0, 20.0])  # supernet and one-hot, an epoch
    monkeypatch.setattr(Search, "score", lambda self, mixture: next(made_up))
    config = tiny_config(select=select, architecture_learning_rate=2.0)
    job = make_job(config=config)
    found = search(job)
    epochs = job.run.read_json("search.json")["epochs"]
    assert epochs[1]["id"] != epochs[2]["id"], "otherwise the test says nothing"
    assert identity(found) == epochs[1 if select == "best" else 2]["id"]
    assert job.run.read_json("search.json")["best_epoch"] == 2
    assert identity(from_json(job.run.read_json("architecture_best.json"))) == epochs[1]["id"]
    assert identity(from_json(job.run.read_json("architecture_last.json"))) == epochs[2]["id"]


def test_a_loss_that_is_no_number_is_an_error_that_keeps_the_last_checkpoint(make_job: MakeJob) -> None:
    config = tiny_config(learning_rate=1e30, final_learning_rate=1e30)
    with pytest.raises(UserError, match=r"no number in epoch [12].*learning_rate") as caught:
        search(make_job(config=config))
    assert "\n" not in str(caught.value)


def test_the_score_is_the_mean_iou_over_the_scored_images(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed again with NumPy from the logits; scoring twice gives the same and changes no statistic."""
    this = Search(make_job())
    mixture = this.relaxation.mixture(detached=True)
    before = {name: tensor.clone() for name, tensor in this.supernet.state_dict().items()}
    score = this.score(mixture)
    assert score == this.score(mixture)
    assert all(torch.equal(tensor, before[name]) for name, tensor in this.supernet.state_dict().items())
    table = np.zeros((3, 3))
    this.supernet.train()
    for batch in this.scored.epoch(0):
        guess = this.supernet(batch.images, mixture).argmax(1).numpy()
        label = batch.labels.numpy()
        for row in range(3):
            for column in range(3):
                table[row, column] += ((label == row) & (guess == column)).sum()
    union = table.sum(0) + table.sum(1) - table.diagonal()
    assert score == pytest.approx(100 * np.mean((table.diagonal() / union)[union > 0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": ("skip_conect",)}, "skip_connect"),
        ({"operations": ("none",)}, "none is left"),
        ({"operations": ("none", "skip_connect", "skip_connect")}, "twice"),
        ({"architecture_from_epoch": 3}, r"0\.\.2"),
        ({"filters": 1}, "filters"),
        ({"resize": 0.0}, "resize"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"architecture_learning_rate": 0.0}, "architecture_learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"stem": (0, 4, 4)}, "stem"),
        ({"head_width": 0}, "head_width"),
        ({"layers": 0}, "layers"),
        ({"scored_images": 0}, "scored_images"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings)


def test_too_few_images_for_a_batch_of_half_the_set(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match="too few"):
        Search(make_job(dataset=Drawn(count=3)))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_smallest_crop_and_batch_run(batch_size: int, make_job: MakeJob) -> None:
    job = make_job(config=tiny_config(layers=3, batch_size=batch_size, epochs=1, architecture_from_epoch=0))
    preflight(job)
    search(job)


def test_the_presets() -> None:
    paper = SYSTEM.presets["paper"]()
    assert (paper.search.layers, paper.search.blocks, paper.search.filters, paper.search.operations) == (12, 5, 8, OPERATIONS)
    assert (paper.search.epochs, paper.search.architecture_from_epoch, paper.search.batch_size) == (40, 20, 2)
    assert (paper.search.crop, paper.search.resize) == ((321, 321), 0.5)
    assert (paper.search.learning_rate, paper.search.final_learning_rate) == (0.025, 0.001)
    assert (paper.search.momentum, paper.search.weight_decay) == (0.9, 3e-4)
    assert (paper.search.architecture_learning_rate, paper.search.architecture_weight_decay) == (3e-3, 1e-3)
    assert (paper.search.stem, paper.search.head_width) == ((64, 64, 128), 256)
    assert paper.retrain.steps == 1_500_000
    assert set(SYSTEM.presets) == {"quick", "small", "paper"} == set(run_presets)
    for name in run_presets:
        assert dataclasses.asdict(SYSTEM.presets[name]().retrain) == dataclasses.asdict(run_preset(name).retrain)
    small, quick = SYSTEM.presets["small"]().search, SYSTEM.presets["quick"]().search
    assert quick.stem < small.stem < paper.search.stem
    assert quick.head_width < small.head_width < paper.search.head_width
    assert "auto-deeplab" in [system.name for system in all_systems()]


def test_the_typical_architecture_is_of_the_space_that_is_searched() -> None:
    config = tiny_config()
    assert SYSTEM.typical is not None
    found = SYSTEM.typical(config)
    assert isinstance(found, AutoDeepLab)
    encode(AutoDeepLabSpace(2, 2, OPERATIONS, config.network), found)
    assert all(isinstance(block, Block) and "none" not in block.operations for block in found.cell)
    assert SYSTEM.typical(config) == found


def lines_of(path: Path, names: tuple[str, ...]) -> int:
    """Lines of the top-level classes, and functions or methods (`Class.method`), of these names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}": inner for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return sum((found[name].end_lineno or 0) - found[name].lineno + 1 for name in names)


def test_one_step_is_followed_in_four_files_and_five_hundred_lines() -> None:
    """From two batches to moved weights, alpha and beta: everything between the loop and the layers of torch."""
    root = Path(inspect.getfile(segnas)).parent
    files = {
        "systems/auto_deeplab.py": ("Search", "Relaxation", "search"),
        "strategies/bilevel.py": ("frozen", "gradients_of", "move"),
        "nets/auto_deeplab_supernet.py": (
            "Mixture",
            "Node",
            "AutoDeepLabSupernet",
            "levels_at",
            "source_before",
        ),
        "nets/operations.py": (
            "search_operation",
            "skip_connect",
            "SeparableConv",
            "_separable",
            "AtrousConv",
            "MixedOperation",
            "MixedGraph",
        ),
    }
    assert len(files) <= 4
    assert sum(lines_of(root / name, parts) for name, parts in files.items()) <= 500


def test_the_search_is_json_all_the_way(make_job: MakeJob) -> None:
    """The history goes through a checkpoint (weights only) and JSON unchanged."""
    job = make_job()
    search(job)
    saved = job.run.load_checkpoint("search")
    assert saved is not None
    assert json.loads(json.dumps(saved["history"])) == saved["history"] == job.run.read_json("search.json")["epochs"]
