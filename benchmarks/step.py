"""One search step of a setting: the systems' own supernets, relaxations, optimizers and steps, on random images in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from segnas.nets.auto_deeplab_supernet import AutoDeepLabSupernet
from segnas.nets.darts_supernet import DartsSupernet
from segnas.nets.engines import choose_engine
from segnas.spaces.darts import DartsOptions
from segnas.strategies.bilevel import frozen, gradients_of, move
from segnas.strategies.second_order import unrolled_gradients
from segnas.systems import auto_deeplab, darts
from segnas.tasks.base import cross_entropy
from settings import Engine, Setting

CLASSES = {"darts": 10, "auto-deeplab": 19}  # of CIFAR-10 and Cityscapes, on which the papers search


def made(setting: Setting) -> tuple[Any, nn.Module, Any]:
    """The system's search configuration, its supernet and its relaxation."""
    sizes: dict[str, Any] = {"layers": setting.layers, "blocks": setting.blocks, "operations": setting.operations}
    classes, crop = CLASSES[setting.system], (setting.crop, setting.crop)
    if setting.system == "darts":
        config = darts.SearchConfig(channels=setting.width, crop=crop, batch_size=setting.batch, order=setting.order, **sizes)
        options = DartsOptions(form="cifar", channels=setting.width, layers=setting.layers)
        return config, DartsSupernet(classes, options, setting.blocks, setting.operations), darts.Relaxation(config, seed=0)
    wide: dict[str, Any] = {"filters": setting.width, "stem": setting.stem, "head_width": setting.head_width}
    paths = auto_deeplab.SearchConfig(crop=crop, batch_size=setting.batch, **sizes, **wide)
    return paths, AutoDeepLabSupernet(classes, **sizes, **wide), auto_deeplab.Relaxation(paths, seed=0)


class SearchStep:
    """Calling it takes one step of the weights on a batch of trainA and one of the architecture on one of trainB."""

    def __init__(self, setting: Setting, engine: Engine) -> None:
        torch.manual_seed(0)
        self.setting, self.engine = setting, engine
        self.config, self.supernet, self.relaxation = made(setting)
        choose_engine(self.supernet, engine.fused, engine.recomputed)
        layout = torch.channels_last if engine.channels_last else torch.contiguous_format
        self.supernet.train().to(memory_format=layout)  # type: ignore[call-overload]
        self.weights, self.variables = list(self.supernet.parameters()), list(self.relaxation.parameters())
        self.weight_optimizer = torch.optim.SGD(
            self.weights,
            self.config.learning_rate,
            self.config.momentum,
            weight_decay=self.config.weight_decay,
            fused=not engine.all_gradients,  # as the search has it; public code has torch's default
        )
        self.architecture_optimizer = torch.optim.Adam(
            self.variables,
            self.config.architecture_learning_rate,
            betas=darts.BETAS if setting.system == "darts" else (0.9, 0.999),
            weight_decay=self.config.architecture_weight_decay,
        )
        self.batch_a, self.batch_b = (self._batch(layout) for _ in range(2))

    def _batch(self, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        size = (self.setting.batch, self.setting.crop, self.setting.crop)
        images = torch.randn(size[0], 3, *size[1:]).contiguous(memory_format=layout)
        labels = size[:1] if self.setting.system == "darts" else size
        return images, torch.randint(0, CLASSES[self.setting.system], labels)

    def __call__(self) -> None:
        self.weight_step()
        self.architecture_step()

    def loss(self, batch: tuple[Tensor, Tensor], mixture: Any, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Of the supernet, with `weights` (by name) in the place of its own."""
        images, labels = batch
        return cross_entropy(functional_call(self.supernet, dict(weights or {}), (images, mixture)), labels)

    def weight_step(self) -> None:
        """Where all gradients are computed, those of the architecture are then thrown away."""
        loss = self.loss(self.batch_a, self.relaxation.mixture(detached=not self.engine.all_gradients))
        _, *gradients = gradients_of(loss, self.weights)
        move(self.weights, gradients, self.weight_optimizer, self.config.clip_norm)
        self.architecture_optimizer.zero_grad()

    def architecture_step(self) -> None:
        """Of the setting's order; where all gradients are computed, those of the weights are thrown away."""
        if self.setting.order == "second":
            gradients, _ = unrolled_gradients(
                self.supernet,
                lambda weights: self.loss(self.batch_a, self.relaxation.mixture(), weights),
                lambda weights: self.loss(self.batch_b, self.relaxation.mixture(), weights),
                self.variables,
                self.weight_optimizer,
            )
            move(self.variables, gradients, self.architecture_optimizer)
        elif self.engine.all_gradients:
            self.loss(self.batch_b, self.relaxation.mixture()).backward()
            self.architecture_optimizer.step()
            self.architecture_optimizer.zero_grad()
            self.weight_optimizer.zero_grad()
        else:
            with frozen(self.weights):
                loss = self.loss(self.batch_b, self.relaxation.mixture())
            _, *of_variables = gradients_of(loss, self.variables)
            move(self.variables, of_variables, self.architecture_optimizer)
