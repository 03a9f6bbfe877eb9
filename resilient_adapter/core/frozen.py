"""Values that are made once and never change.

What a frozen dataclass gives, without what that costs before anything is done: half a millisecond for each class, and
the import of ``inspect``.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        """Tell type checkers what the constructor of a subclass takes (PEP 681), and do nothing."""
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Frozen:
    """A value. The annotated attributes of a subclass are its fields; what is assigned to them there is their default.

    It cannot be changed, and is compared, hashed, shown and pickled by its fields. They are in ``__dict__``: in a hot
    path a NamedTuple is quicker to make.
    """

    #: The names of the fields, in their order; called as msgspec's structs call them.
    __struct_fields__: ClassVar[tuple[str, ...]] = ()
    _names: ClassVar[frozenset[str]]
    _defaults: ClassVar[Mapping[str, Any]]
    _values: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        names = cls.__struct_fields__ = (*cls.__struct_fields__, *cls.__annotations__)
        cls._names = frozenset(names)
        cls._defaults = {name: getattr(cls, name) for name in names if hasattr(cls, name)}
        cls._values = attrgetter(*names)

    def __init__(self, *args: Any, **values: Any) -> None:
        names = self.__struct_fields__
        fields = self.__dict__
        fields.update(self._defaults)
        fields.update(zip(names, args, strict=False), **values)
        twice = len(args) > len(names) or not values.keys().isdisjoint(names[: len(args)])
        if twice or fields.keys() != self._names:
            raise TypeError(f"{type(self).__name__} takes each of its fields once: {', '.join(names)}")

    def _asdict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    def _replace(self, **changes: Any) -> Self:
        """Return a copy in which some fields are others."""
        return type(self)(**self._asdict() | changes)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return bool(self._values(self) == other._values(other)) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values(self))

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{type(self).__qualname__}({', '.join(shown)})"
