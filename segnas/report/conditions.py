"""The conditions of a figure in a few words, where they are not the plain ones: what a headline or a card must not leave out."""

from __future__ import annotations

from segnas.report.information import Cost, Evaluation, Latency, Parity
from segnas.report.markup import listing, percent, plural

PLAIN_PRECISION = (None, "32", "float32")


def views(evaluation: Evaluation) -> str:
    """`scales 0.5, 1 and 1.5, flipped`, or nothing for one pass over the image at scale 1."""
    scales = evaluation.protocol.get("scales") or [1.0]
    words = []
    if list(scales) != [1.0]:
        words.append(f"{'scale' if len(scales) == 1 else 'scales'} {listing(f'{scale:g}' for scale in scales)}")
    if evaluation.protocol.get("flip"):
        words.append("flipped")
    return ", ".join(words)


def evaluation_notes(evaluation: Evaluation) -> list[str]:
    """What of an evaluation's protocol is not the plain one: its views and its precision."""
    precision = evaluation.protocol.get("precision")
    return [text for text in (views(evaluation), "" if precision in PLAIN_PRECISION else str(precision)) if text]


def latency_notes(latency: Latency, cost: Cost | None) -> list[str]:
    """A batch of several images, a precision other than float32, a size other than that of the multiply-adds."""
    notes = [f"a batch of {latency.input[0]} images"] if latency.input[0] > 1 else []
    if latency.precision not in PLAIN_PRECISION:
        notes.append(str(latency.precision))
    if cost is not None and latency.input[-2:] != cost.size:
        notes.append("not the size of the multiply-adds")
    return notes


def answers(latency: Latency, cost: Cost | None) -> str:
    """`answers in 148 ms on cpu`'s conditions, to stand behind the milliseconds: batch, size, precision."""
    words = f" for a batch of {plural(latency.input[0], 'image')}" if latency.input[0] > 1 else ""
    if cost is not None and latency.input[-2:] != cost.size:
        words += f" at {by(latency.input[-2:])}"
    return words if latency.precision in PLAIN_PRECISION else f"{words} in {latency.precision}"


def other_size(parity: Parity | None, cost: Cost | None) -> str | None:
    """The image size of the exported file, where the cost was counted for another one."""
    if parity is None or parity.size is None or cost is None or parity.size == cost.size:
        return None
    return by(parity.size)


def reached(first: Evaluation, others: tuple[Evaluation, ...]) -> str:
    """`54.3 % mIoU over 11 classes on the test split (61.9 % on val)`, with all that differs from the plain protocol."""
    remarks = evaluation_notes(first)
    beside = next((item for item in others if item.split != first.split), None)
    over = plural(len(first.classes), "class", "classes")
    text = f"{percent(first.score)} {first.metric} over {over} on the {first.split} split"
    if beside is not None:
        differs = "" if views(beside) == views(first) else f" with {views(beside) or 'one scale, not flipped'}"
        remarks.append(f"{percent(beside.score)} on {beside.split}{differs}")
    return f"{text} ({'; '.join(remarks)})" if remarks else text


def by(size: tuple[int, ...]) -> str:
    """`360 × 480`: height and width."""
    return " × ".join(map(str, size))
