"""A controller: an LSTM that answers a space's questions one after the other (Zoph and Le, ICLR 2017, section 3.1).

    h_t = LSTM(x_t, h_t-1)                                    one step a question; a stack of layers, h_t is the last one's
    logits_t = W h_t + b, the rows of the options that question t offers
             = v^T tanh(W1 anchor_j + W2 h_t) of node j       with `attention`, where these are earlier nodes (ENAS)
             = 0 for no, the same for yes to member j         with `attention`, where they are of a set (section 3.3)
    logits_t = c tanh(logits_t / T)                           T: temperature, c: tanh_constant (ENAS); c = 0: no tanh
    x_t+1 = the embedding of the chosen option, or h_t        `feedback`; after a set, sum of its members' anchors / (1 + number)

All members of a set are decided in one step, and the anchor of a member is the state of the last step about it: of a layer, when
it decided what it reads. What follows a set is not said in the paper; it is what the public code of ENAS does (whole networks).

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
    attention: options that are nodes are scored by the states at which they were first offered, members of a set by those at
    which they were decided.
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
    steps: (B, T), the step of the LSTM that answers; steps are padded to T, too. embeddings: (B, T), what is fed back after each.
    nodes: (B, T), whether attention scores the options, with the anchors (B, T, K): 1 + the step whose state it is, 0 for zeros,
    -1 for the score 0. sets: (B, T), whether a step decides a set; then sums (B, T, T) of all states are fed back (where the
    controller has no sets: (B, T, 0)).
    """

    rows: Tensor
    offered: Tensor
    chosen: Tensor
    steps: Tensor
    embeddings: Tensor
    nodes: Tensor
    anchors: Tensor
    sets: Tensor
    sums: Tensor


class Controller(nn.Module):
    """Draws architectures and scores them. Weights come from `generator`, and torch's own generators are left alone."""

    def __init__(self, space: Space, config: ControllerConfig, generator: np.random.Generator) -> None:
        super().__init__()
        self.space, self.config = space, config
        self.output_rows: dict[tuple[Hashable, Any], int] = {}
        self.embedding_rows: dict[tuple[Hashable, Any], int] = {}
        found = [choice for seen in discover(space).values() for choice in seen]
        self.sets = config.attention and any(choice.member for choice in found)
        self.attention = self.sets or (config.attention and any(choice.node for choice in found))  # else nothing to attend to
        self._number(found)
        hidden = config.hidden
        self.start = nn.Parameter(torch.empty(hidden))
        lstm = nn.LSTM(hidden, hidden, config.layers, batch_first=True, device="meta")  # where making it draws nothing
        self.lstm = lstm.to_empty(device="cpu")
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
    def draw(self, generator: np.random.Generator, space: Space | None = None) -> Draw:
        """An architecture of the policy; one number of `generator` for each choice. space: a stage of the controller's own."""
        drawing = _Drawing(self, generator)
        architecture = (space or self.space).architecture(drawing)
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
        states = made = self._states(trace)
        if self.sets:
            states = made.expand(len(trace.steps), -1, -1)[torch.arange(len(trace.steps)).view(-1, 1), trace.steps]
        logits = torch.einsum("btkh,bth->btk", F.embedding(trace.rows, self.weight), states) + self.bias[trace.rows]
        if self.attention:
            anchors = F.pad(self.project(made), (0, 0, 1, 0)).expand(len(trace.anchors), -1, -1)
            anchors = anchors[torch.arange(len(anchors)).view(-1, 1, 1), trace.anchors.clamp(min=0)]
            scores = self.attend(anchors, states).masked_fill(trace.anchors < 0, 0.0)
            logits = torch.where(trace.nodes.unsqueeze(-1), scores, logits)
        return F.log_softmax(self.bounded(logits).masked_fill(~trace.offered, -torch.inf), dim=-1)

    def trace(self, choices: Sequence[Choice]) -> Trace:
        """The indices of one architecture's choices, in their order (B = 1)."""
        steps, most = max(1, len(choices)), max((len(choice.options) for choice in choices), default=1)
        rows, anchors = np.zeros((2, 1, steps, most), dtype=np.int64)
        offered = np.zeros((1, steps, most), dtype=bool)
        chosen, at, embeddings = np.zeros((3, 1, steps), dtype=np.int64)
        nodes, sets = np.zeros((2, 1, steps), dtype=bool)
        sums = np.zeros((1, steps, steps if self.sets else 0))
        offered[:, :, 0] = True
        course, first_offered = _Course(self.sets), _FirstOffered()
        for place, choice in enumerate(choices):
            count, step = len(choice.options), course.step(choice.name, choice.member)
            offered[0, place, :count] = True
            chosen[0, place], at[0, place] = choice.index, step
            if self.is_set(choice.member):
                nodes[0, place] = sets[0, step] = True
                anchors[0, place, :count] = course.anchors(choice.member, choice.options)
                sums[0, step] = course.decided(choice.member, choice.option, steps)
                continue
            group = self.group(choice.name, choice.options, choice.node)
            if self.attends(choice.node):
                nodes[0, place] = True
                anchors[0, place, :count] = first_offered.places(choice.name, choice.options, step)
            else:
                rows[0, place, :count] = self.rows_of(group, choice.options)
            if self.config.feedback == "choice":
                embeddings[0, step] = self.embedding_of(group, choice.option)
        parts = (rows, offered, chosen, at, embeddings, nodes, anchors, sets, sums)
        return Trace(*(torch.from_numpy(values) for values in parts))

    def attends(self, node: bool) -> bool:
        """Whether the options of such a choice are scored by attention."""
        return node and self.attention

    def is_set(self, member: str) -> bool:
        """Whether such a choice is decided together with the others of its set."""
        return bool(member) and self.sets

    def group(self, name: str, options: tuple[Any, ...], node: bool) -> Hashable:
        """What a choice's rows and embeddings are filed under: its name, or its options where these are shared."""
        return options if self.config.shared and not node else name

    def rows_of(self, group: Hashable, options: Sequence[Any]) -> list[int]:
        """The row of W of each option."""
        return [_place(self.output_rows, len(self.weight), group, option) for option in options]

    def embedding_of(self, group: Hashable, option: Any) -> int:
        """The number of the option's embedding."""
        return _place(self.embedding_rows, len(self.embedding), group, option)

    def recurrence(self, batch: int = 1) -> Recurrence:
        """The LSTM before its first step."""
        return Recurrence(self.lstm.all_weights, self.config.hidden, batch)

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

    def _number(self, found: Sequence[Choice]) -> None:
        """Give every option that was found its row of W, unless attention scores it, and its embedding, if these are fed back."""
        for choice in found:
            if self.is_set(choice.member):
                continue
            group = self.group(choice.name, choice.options, choice.node)
            for option in choice.options:
                if not self.attends(choice.node):
                    self.output_rows.setdefault((group, option), len(self.output_rows))
                if self.config.feedback == "choice":
                    self.embedding_rows.setdefault((group, option), len(self.embedding_rows))

    def _states(self, trace: Trace) -> Tensor:
        """(B, T, hidden) states; (1, T, hidden) where they do not depend on what is chosen, for all of the batch."""
        if self.config.feedback == "choice" and self.sets:
            return self._states_with_sets(trace)
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

    def _states_with_sets(self, trace: Trace) -> Tensor:
        """(B, steps, hidden) states, one step after the other: what follows a set depends on the states before it."""
        recurrence = self.recurrence(len(trace.steps))
        states = [recurrence.step(self.start.expand(len(trace.steps), -1))]
        sums = trace.sums.to(self.start.dtype)
        for step in range(int(trace.steps.max())):
            value = F.embedding(trace.embeddings[:, step], self.embedding)
            if trace.sets[:, step].any():
                summed = torch.einsum("bs,bsh->bh", sums[:, step, : step + 1], torch.stack(states, dim=1))
                value = torch.where(trace.sets[:, step].unsqueeze(-1), summed, value)
            states.append(recurrence.step(value))
        return torch.stack(states, dim=1)


class Recurrence:
    """The LSTM one step at a time, from zero states; `weights`: of each layer, as torch.lstm_cell takes them."""

    def __init__(self, weights: Sequence[Sequence[Tensor]], hidden: int, batch: int = 1) -> None:
        self.weights = weights
        zeros = weights[0][0].new_zeros(batch, hidden)
        self.memory = [(zeros, zeros)] * len(weights)

    def step(self, value: Tensor) -> Tensor:
        """The last layer's state (B, hidden) after the input (B, hidden)."""
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
        self.states: list[Tensor] = []  # of each step
        self.anchors = [torch.zeros_like(self.input)]  # zeros, then that of each step
        self.course, self.first_offered = _Course(controller.sets), _FirstOffered()

    def __call__(self, name: str, options: Sequence[T], node: bool = False, member: str = "") -> T:
        controller, listed = self.controller, tuple(options)
        step, of_set = self.course.step(name, member), controller.is_set(member)
        state = self._state(step)
        group = controller.group(name, listed, node)
        if of_set:
            logits = self._scores(self.course.anchors(member, listed), state)
        elif controller.attends(node):
            logits = self._scores(self.first_offered.places(name, listed, step), state)
        else:
            rows = torch.tensor(controller.rows_of(group, listed))
            logits = F.linear(state, controller.weight[rows], controller.bias[rows])
        logarithms = F.log_softmax(controller.bounded(logits[0]), dim=-1).double().numpy()
        probabilities = np.exp(logarithms)
        index = _drawn(probabilities, self.generator)
        self.log_probability += float(logarithms[index])
        self.entropy -= float(probabilities @ logarithms)
        self.choices.append(Choice(name, listed, index, node, member))
        option: T = listed[index]
        if controller.config.feedback == "output":
            self.input = state
        elif of_set:
            weights = torch.from_numpy(self.course.decided(member, option, len(self.states))).to(state.dtype)
            self.input = weights.unsqueeze(0) @ torch.cat(self.states)
        else:
            row = controller.embedding_of(group, option)
            self.input = controller.embedding[row : row + 1]
        return option

    def _state(self, step: int) -> Tensor:
        """(1, hidden), of a step that may have been made."""
        if step == len(self.states):
            self.states.append(self.recurrence.step(self.input))
            if self.controller.attention:
                self.anchors.append(self.controller.project(self.states[-1]))
        return self.states[step]

    def _scores(self, places: Sequence[int], state: Tensor) -> Tensor:
        """(1, K) by attention; 0 where a place is -1."""
        anchors = torch.stack([self.anchors[max(0, place)] for place in places], dim=1)
        return self.controller.attend(anchors, state).masked_fill(torch.tensor(places) < 0, 0.0)


class _Course:
    """Which step of the LSTM answers each choice, one after the other, and which one was the last about each part."""

    def __init__(self, sets: bool) -> None:
        self.sets, self.steps, self.open = sets, 0, ""
        self.last: dict[str, int] = {}  # beginning of a name -> step
        self.members: list[int] = []  # the steps of what was taken into the open set, -1 where there is none

    def step(self, name: str, member: str) -> int:
        """The step of the next choice: its own, or that of the set whose first choice came before."""
        if not self.sets:
            self.steps += 1
            return self.steps - 1
        of_set = name.rpartition(".")[0] if member else ""
        if not of_set or of_set != self.open:
            self.steps, self.open, self.members = self.steps + 1, of_set, []
        for beginning in itertools.accumulate(name.split("."), lambda start, part: f"{start}.{part}"):
            self.last[beginning] = self.steps - 1
        return self.steps - 1

    def anchors(self, member: str, options: Sequence[Any]) -> list[int]:
        """Of each option: -1 for no, and for yes 1 + the last step about the member, 0 where there was none."""
        return [1 + self.last.get(member, -1) if option else -1 for option in options]

    def decided(self, member: str, option: Any, steps: int) -> np.ndarray:
        """Note an answer. Returns the weights of the states of `steps` steps in what is fed back, as the set is now."""
        if option:
            self.members.append(self.last.get(member, -1))
        weights = np.zeros(steps)
        for place in self.members:
            if place >= 0:
                weights[place] += 1 / (1 + len(self.members))
        return weights


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
        for name, values in vars(trace).items():
            if name == "sums":
                yield F.pad(values, (0, short if values.shape[2] else 0, 0, short))
            else:
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
