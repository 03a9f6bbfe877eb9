"""Values that cannot be changed: what a frozen dataclass gives, without one."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from resilient_adapter.core.frozen import Frozen


class Point(Frozen):
    """One field has to be given, one has a default."""

    x: int
    y: int = 0


class Named(Point):
    """A field more."""

    name: str = ""


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (Point(1), {"x": 1, "y": 0}),
        (Point(1, 2), {"x": 1, "y": 2}),
        (Point(y=2, x=1), {"x": 1, "y": 2}),
        (Named(1, 2, "a"), {"x": 1, "y": 2, "name": "a"}),
        (Named(1, name="a"), {"x": 1, "y": 0, "name": "a"}),
        (Named(1)._replace(y=5), {"x": 1, "y": 5, "name": ""}),
    ],
    ids=repr,
)
def test_fields_are_given_by_position_or_name(value: Frozen, fields: dict[str, Any]) -> None:
    """In the order in which they are written down, those of the base first; what is not given has its default."""
    assert value._asdict() == fields
    assert list(value._asdict()) == list(value.__struct_fields__)
    assert {name: getattr(value, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("args", "values"),
    [((), {}), ((), {"y": 1}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1}), ((), {"y": 1, "z": 1})],
    ids=repr,
)
def test_each_field_is_given_once(args: tuple[int, ...], values: dict[str, int]) -> None:
    """One that is missing, unknown, one too many or given twice is a TypeError that names them all."""
    with pytest.raises(TypeError, match="Point takes each of its fields once: x, y"):
        Point(*args, **values)
    with pytest.raises(TypeError, match="once"):
        Point(1)._replace(z=1)


def test_values_are_compared_hashed_and_shown_by_their_fields() -> None:
    """Equal are values of one class with equal fields."""
    assert Point(1) == Point(1, 0) and hash(Point(1)) == hash(Point(1, 0))
    assert Point(1) != Point(2) and Point(1) != Named(1) and Point(1) != (1, 0)
    assert len({Point(1), Point(1, 0), Point(2)}) == 2
    assert repr(Point(1)) == "Point(x=1, y=0)"


@pytest.mark.parametrize("again", [lambda value: pickle.loads(pickle.dumps(value)), copy.copy, copy.deepcopy])
def test_copies_are_equal(again: Any) -> None:
    """Pickled or copied, a value stays what it is."""
    assert again(Named(1, 2, "a")) == Named(1, 2, "a")


def test_nothing_can_be_changed() -> None:
    """No field can be set or deleted, nor one added."""
    point = Point(1)
    for change in (lambda: setattr(point, "x", 2), lambda: setattr(point, "z", 2), lambda: delattr(point, "x")):
        with pytest.raises(AttributeError, match="Point cannot be changed"):
            change()
    assert point == Point(1)
