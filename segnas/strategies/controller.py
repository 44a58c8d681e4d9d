"""A controller: an LSTM that answers a space's questions one after the other (Zoph and Le, ICLR 2017, section 3.1).

    h_t = LSTM(x_t, h_t-1)                                    one step a question; a stack of layers, h_t is the last one's
    logits_t = W h_t + b, the rows of the options that question t offers
             = v^T tanh(W1 anchor_j + W2 h_t) of node j       with `attention`, where these are earlier nodes (ENAS)
    logits_t = c tanh(logits_t / T)                           T: temperature, c: tanh_constant (ENAS); c = 0: no tanh
    x_t+1 = the embedding of the chosen option, or h_t        `feedback`

It knows no space. Which questions there are is found by trial (`discover`), and every option of each has a row of W and an
embedding. One that was not found shares the row that its hash points at: still a legal answer, only learnt together with another.

feedback "output" is what the published code of Fast NAS does (Nekrasov et al., CVPR 2019): no step ever sees what was chosen, so
that the policy is a product of independent categorical distributions. `encode_steps` steps go before the first question there.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.config import configuration
from segnas.randomness import derive
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import Choice, Space, choices_of, discover

T = TypeVar("T")


@configuration
class ControllerConfig:
    """The controller's network.

    init_range: all weights and biases start uniform in [-init_range, init_range]. temperature divides the logits; tanh_constant
    bounds them (0: not bounded). shared: choices with the same list of options, nodes excepted, share rows and embeddings.
    attention: options that are nodes are scored by the states at which they were first offered.
    """

    hidden: PositiveInt = 64
    layers: PositiveInt = 1
    init_range: NonNegativeFloat = 0.1
    temperature: PositiveFloat = 1.0
    tanh_constant: NonNegativeFloat = 0.0
    feedback: Literal["choice", "output"] = "choice"
    encode_steps: NonNegativeInt = 0
    shared: bool = False
    attention: bool = False

    def __post_init__(self) -> None:
        if self.encode_steps and self.feedback != "output":
            raise ValueError("encode_steps needs feedback=output: an embedding is fed back only after a question")


@dataclass(frozen=True)
class Draw:
    """An architecture that a controller drew: its choices, log-probability and the sum of the entropies of its questions."""

    architecture: Architecture
    choices: tuple[Choice, ...]
    log_probability: float
    entropy: float


@dataclass(frozen=True)
class Trace:
    """Choices as a controller's indices: B architectures of up to T choices with up to K options each.

    rows: (B, T, K) of W. offered: (B, T, K), what is an option; a padded place offers one. chosen: (B, T), which of the K.
    embeddings: (B, T), of what is chosen. nodes: (B, T), whether attention scores the options, with the anchors (B, T, K):
    1 + the step whose state it is, 0 for zeros.
    """

    rows: Tensor
    offered: Tensor
    chosen: Tensor
    embeddings: Tensor
    nodes: Tensor
    anchors: Tensor


class Controller(nn.Module):
    """Draws architectures and scores them. Weights come from `generator`, and torch's own generators are left alone."""

    def __init__(self, space: Space, config: ControllerConfig, generator: np.random.Generator) -> None:
        super().__init__()
        self.space, self.config = space, config
        self.output_rows: dict[tuple[Hashable, Any], int] = {}
        self.embedding_rows: dict[tuple[Hashable, Any], int] = {}
        self.attention = self._number_options()  # there are choices whose options it scores
        hidden = config.hidden
        self.start = nn.Parameter(torch.empty(hidden))
        self.lstm = nn.LSTM(hidden, hidden, config.layers, batch_first=True, device="meta").to_empty(
            device="cpu"
        )  # draws nothing
        self.weight = nn.Parameter(torch.empty(max(1, len(self.output_rows)), hidden))
        self.bias = nn.Parameter(torch.empty(len(self.weight)))
        if config.feedback == "choice":
            self.embedding = nn.Parameter(torch.empty(max(1, len(self.embedding_rows)), hidden))
        if self.attention:
            self.anchor_weight = nn.Parameter(torch.empty(hidden, hidden))
            self.state_weight = nn.Parameter(torch.empty(hidden, hidden))
            self.score_weight = nn.Parameter(torch.empty(hidden))
        with torch.no_grad():
            for parameter in self.parameters():
                drawn = generator.uniform(-config.init_range, config.init_range, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(drawn))

    @torch.no_grad()
    def draw(self, generator: np.random.Generator) -> Draw:
        """An architecture of the policy; one number of `generator` for each choice."""
        drawing = _Drawing(self, generator)
        architecture = self.space.architecture(drawing)
        return Draw(architecture, tuple(drawing.choices), drawing.log_probability, drawing.entropy)

    def score(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """(B,) log-probabilities and (B,) entropies: of the distributions that were drawn from, summed over the choices."""
        logarithms = self.distributions(trace)
        log_probabilities = logarithms.gather(-1, trace.chosen.unsqueeze(-1)).sum((1, 2))
        entropies = -(logarithms.exp() * logarithms.masked_fill(~trace.offered, 0.0)).sum((1, 2))
        return log_probabilities, entropies

    def score_architectures(self, architectures: Sequence[Architecture]) -> tuple[Tensor, Tensor]:
        """`score` of architectures; raises NotInSpace for one outside."""
        return self.score(join([self.trace(choices_of(self.space, architecture)) for architecture in architectures]))

    def distributions(self, trace: Trace) -> Tensor:
        """(B, T, K) logarithms of the probabilities of each option, given the choices before it; -inf where none is offered."""
        states = self._states(trace)
        logits = torch.einsum("btkh,bth->btk", F.embedding(trace.rows, self.weight), states) + self.bias[trace.rows]
        if self.attention:
            anchors = F.pad(self.project(states), (0, 0, 1, 0)).expand(len(trace.anchors), -1, -1)
            anchors = anchors[torch.arange(len(anchors)).view(-1, 1, 1), trace.anchors]
            logits = torch.where(trace.nodes.unsqueeze(-1), self.attend(anchors, states), logits)
        return F.log_softmax(self.bounded(logits).masked_fill(~trace.offered, -torch.inf), dim=-1)

    def trace(self, choices: Sequence[Choice]) -> Trace:
        """The indices of one architecture's choices, in their order (B = 1)."""
        steps, most = max(1, len(choices)), max((len(choice.options) for choice in choices), default=1)
        rows, anchors = np.zeros((2, 1, steps, most), dtype=np.int64)
        offered = np.zeros((1, steps, most), dtype=bool)
        chosen, embeddings = np.zeros((2, 1, steps), dtype=np.int64)
        nodes = np.zeros((1, steps), dtype=bool)
        offered[:, :, 0] = True
        first_offered = _FirstOffered()
        for step, choice in enumerate(choices):
            count = len(choice.options)
            offered[0, step, :count] = True
            chosen[0, step] = choice.index
            group = self.group(choice.name, choice.options, choice.node)
            if self.attends(choice.node):
                nodes[0, step] = True
                anchors[0, step, :count] = first_offered.places(choice.name, choice.options, step)
            else:
                rows[0, step, :count] = self.rows_of(group, choice.options)
            if self.config.feedback == "choice":
                embeddings[0, step] = self.embedding_of(group, choice.option)
        return Trace(*(torch.from_numpy(values) for values in (rows, offered, chosen, embeddings, nodes, anchors)))

    def attends(self, node: bool) -> bool:
        """Whether the options of such a choice are scored by attention."""
        return node and self.config.attention

    def group(self, name: str, options: tuple[Any, ...], node: bool) -> Hashable:
        """What a choice's rows and embeddings are filed under: its name, or its options where these are shared."""
        return options if self.config.shared and not node else name

    def rows_of(self, group: Hashable, options: Sequence[Any]) -> list[int]:
        """The row of W of each option."""
        return [_place(self.output_rows, len(self.weight), group, option) for option in options]

    def embedding_of(self, group: Hashable, option: Any) -> int:
        """The number of the option's embedding."""
        return _place(self.embedding_rows, len(self.embedding), group, option)

    def recurrence(self) -> Recurrence:
        """The LSTM before its first step."""
        return Recurrence(self.lstm.all_weights, self.config.hidden)

    def project(self, states: Tensor) -> Tensor:
        """W1 times states (..., hidden): what `attend` takes of anchors. Zeros for zeros."""
        return states @ self.anchor_weight.T

    def attend(self, anchors: Tensor, states: Tensor) -> Tensor:
        """(..., K) scores of the nodes with the projected anchors (..., K, hidden) in the states (..., hidden)."""
        return torch.tanh(anchors + (states @ self.state_weight.T).unsqueeze(-2)) @ self.score_weight

    def bounded(self, logits: Tensor) -> Tensor:
        """Logits after temperature and tanh."""
        if self.config.temperature != 1:
            logits = logits / self.config.temperature
        return self.config.tanh_constant * torch.tanh(logits) if self.config.tanh_constant else logits

    def _number_options(self) -> bool:
        """Fill the tables of rows; whether there are choices that attention scores."""
        attends = False
        for name, seen in discover(self.space).items():
            for choice in seen:
                group = self.group(name, choice.options, choice.node)
                attends = attends or self.attends(choice.node)
                for option in choice.options:
                    if not self.attends(choice.node):
                        self.output_rows.setdefault((group, option), len(self.output_rows))
                    if self.config.feedback == "choice":
                        self.embedding_rows.setdefault((group, option), len(self.embedding_rows))
        return attends

    def _states(self, trace: Trace) -> Tensor:
        """(B, T, hidden) states; (1, T, hidden) where they do not depend on what is chosen, for all of the batch."""
        if self.config.feedback == "choice":
            batch = len(trace.embeddings)
            embedded = F.embedding(trace.embeddings[:, :-1], self.embedding)
            states: Tensor = self.lstm(torch.cat([self.start.expand(batch, 1, -1), embedded], dim=1))[0]
            return states
        recurrence = self.recurrence()
        outputs = [recurrence.step(self.start.unsqueeze(0))]
        while len(outputs) < self.config.encode_steps + trace.chosen.shape[1]:
            outputs.append(recurrence.step(outputs[-1]))
        return torch.stack(outputs[self.config.encode_steps :], dim=1)


class Recurrence:
    """The LSTM one step at a time, from zero states; `weights`: of each layer, as torch.lstm_cell takes them."""

    def __init__(self, weights: Sequence[Sequence[Tensor]], hidden: int) -> None:
        self.weights = weights
        zeros = weights[0][0].new_zeros(1, hidden)
        self.memory = [(zeros, zeros)] * len(weights)

    def step(self, value: Tensor) -> Tensor:
        """The last layer's state (1, hidden) after the input (1, hidden)."""
        for layer, weights in enumerate(self.weights):
            self.memory[layer] = torch.lstm_cell(value, self.memory[layer], *weights)
            value = self.memory[layer][0]
        return value


class _Drawing:
    """The `choose` of one draw."""

    def __init__(self, controller: Controller, generator: np.random.Generator) -> None:
        self.controller, self.generator = controller, generator
        self.choices: list[Choice] = []
        self.log_probability = self.entropy = 0.0
        self.recurrence = controller.recurrence()
        self.input = controller.start.unsqueeze(0)
        for _ in range(controller.config.encode_steps):
            self.input = self.recurrence.step(self.input)
        self.anchors = [torch.zeros_like(self.input)]  # zeros, then that of each question
        self.first_offered = _FirstOffered()

    def __call__(self, name: str, options: Sequence[T], node: bool = False) -> T:
        controller, listed = self.controller, tuple(options)
        state = self.recurrence.step(self.input)
        if controller.attention:
            self.anchors.append(controller.project(state))
        group = controller.group(name, listed, node)
        if controller.attends(node):
            places = self.first_offered.places(name, listed, len(self.choices))
            logits = controller.attend(torch.stack([self.anchors[place] for place in places], dim=1), state)
        else:
            rows = torch.tensor(controller.rows_of(group, listed))
            logits = F.linear(state, controller.weight[rows], controller.bias[rows])
        logarithms = F.log_softmax(controller.bounded(logits[0]), dim=-1).double().numpy()
        probabilities = np.exp(logarithms)
        index = _drawn(probabilities, self.generator)
        self.log_probability += float(logarithms[index])
        self.entropy -= float(probabilities @ logarithms)
        self.choices.append(Choice(name, listed, index, node))
        option: T = listed[index]
        if controller.config.feedback == "output":
            self.input = state
        else:
            row = controller.embedding_of(group, option)
            self.input = controller.embedding[row : row + 1]
        return option


class _FirstOffered:
    """When each node was offered for the first time.

    Nodes are numbered within the list that a choice's name begins with: node 1 of `normal.blocks.2.inputs.0` is the same as in
    `normal.blocks.3.inputs.1`, that of `reduction.blocks.2.inputs.0` is another.
    """

    def __init__(self) -> None:
        self.place_of: dict[str, dict[Any, int]] = {}

    def places(self, name: str, options: Sequence[Any], step: int) -> list[int]:
        """Of each option: 0 when the first question about these nodes offered it, else 1 + the step that first did."""
        scope = ".".join(itertools.takewhile(lambda part: not part.isdigit(), name.split(".")))
        new = 1 + step if scope in self.place_of else 0
        known = self.place_of.setdefault(scope, {})
        return [known.setdefault(option, new) for option in options]


def join(traces: Sequence[Trace]) -> Trace:
    """One batch of several traces, padded to the longest with places that offer a single option."""
    if len(traces) == 1:
        return traces[0]
    steps = max(trace.rows.shape[1] for trace in traces)
    most = max(trace.rows.shape[2] for trace in traces)

    def padded(trace: Trace) -> Iterator[Tensor]:
        short, narrow = steps - trace.rows.shape[1], most - trace.rows.shape[2]
        for values in vars(trace).values():
            yield F.pad(values, (0, narrow, 0, short) if values.dim() == 3 else (0, short))

    joined = Trace(*(torch.cat(values) for values in zip(*(padded(trace) for trace in traces), strict=True)))
    joined.offered[..., 0] = True
    return joined


def _place(table: Mapping[tuple[Hashable, Any], int], size: int, group: Hashable, option: Any) -> int:
    """Where the option stands in the table, or where its hash says that it shares a place."""
    place = table.get((group, option))
    return derive("option", repr(group), repr(option)) % size if place is None else place


def _drawn(probabilities: np.ndarray, generator: np.random.Generator) -> int:
    """An index drawn with these probabilities, whose sum may differ from 1 by rounding."""
    cumulative = np.cumsum(probabilities)
    index = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return min(index, len(probabilities) - 1)
