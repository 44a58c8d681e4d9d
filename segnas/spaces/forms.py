"""The forms of network that the same cells make, for families that have several.

    cifar          classifies small images: the stem keeps their resolution
    imagenet       classifies large images: the stem divides their resolution
    segmentation   a class a pixel: stem of stride 4, output stride 16, ASPP, decoder

Such a family has a method `in_form(form)`, its cells in another form with the usual sizes of that form, and a method
`forms_for(task)`. What a form's published figures are for stands in INPUTS.
"""

from __future__ import annotations

from typing import Literal, get_args

from segnas.errors import UserError, did_you_mean
from segnas.spaces.architecture import CITYSCAPES, Architecture, Input

Form = Literal["cifar", "imagenet", "segmentation"]
FORMS: tuple[Form, ...] = get_args(Form)
INPUTS: dict[Form, Input] = {"cifar": ((32, 32), 10), "imagenet": ((224, 224), 1000), "segmentation": CITYSCAPES}


def task_of_form(form: str) -> str:
    """What the networks of a form predict."""
    return "segmentation" if form == "segmentation" else "classification"


def forms_for(task: str) -> list[str]:
    """The forms that predict this."""
    return [form for form in FORMS if task_of_form(form) == task]


def has_forms(architecture: Architecture) -> bool:
    """Whether the architecture's cells come in several forms of network."""
    return hasattr(architecture, "in_form")


def with_form(architecture: Architecture, form: str) -> Architecture:
    """The architecture's cells as another form of network, of the usual sizes of that form.

    Raises UserError for an unknown form, and for a family that has none.
    """
    if not has_forms(architecture):
        raise UserError("the networks of this family come in one form; leave out --form")
    if form not in FORMS:
        raise UserError(f"unknown form '{form}'{did_you_mean(form, FORMS)}")
    return architecture.in_form(form)
