"""What all sections are made of: numbers that are no booleans, names that stand once, unknown keys that are faults."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_bool(value: Any) -> Any:
    # In Python, and so in pydantic, True is the number 1: `lr: yes` would train.
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def distinct(values: list[Any]) -> list[Any]:
    """The values, none of which may be there twice.

    Raises:
        ValueError: naming one that is.
    """
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is listed twice")
    return values


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
Positive = Annotated[Number, Field(gt=0.0)]
Integer = Annotated[int, BeforeValidator(_no_bool)]
Count = Annotated[Integer, Field(ge=1)]
Natural = Annotated[Integer, Field(ge=0)]


class Section(BaseModel):
    """Base of all sections: unknown keys are faults, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())
