"""Two real steps of a training, made for this alone: what its steps take in time and memory."""

from __future__ import annotations

from segnas.data.loading import Batch
from segnas.training.preflight import Measurement, Size, measure, seconds_of
from segnas.training.retrain import Retraining


def rehearse(this: Retraining, stage: str, size: Size, workers: int) -> Measurement:
    """Of a training at its beginning, loading included. size: the settings that its memory grows with, for the message.

    workers: processes that load images. Raises DoesNotFit with the settings that would fit when the memory does not suffice.
    """
    batches = this.remaining_batches()
    batch: Batch = next(batches)
    loading = seconds_of(lambda: next(batches, None))
    measured = measure(stage, this.train_step, batch, this.steps, this.device.device, size, this.network)
    return measured.with_loading(loading, workers)
