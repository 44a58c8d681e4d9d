"""What a network can be asked for, by name: `tasks["segmentation"]`, `tasks["classification"]`."""

from segnas.tasks import classification, segmentation
from segnas.tasks.base import Task, tasks

__all__ = ["Task", "classification", "segmentation", "tasks"]
