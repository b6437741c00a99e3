"""What becomes of each setting that a file states, and a careful view of the file's values."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..mmdet_config import Unread

__all__ = ["Node", "Settings"]


@dataclass
class Settings:
    """What a checkpoint says of its model, in Detectron2's keys.

    Attributes:
        path: of the file.
        source: who wrote the settings: "MMDetection 3.x", "hrnet_d2", ...; "" where nobody did.
        family: name of the configs' folder: "faster_rcnn", ..., "fcos"; None where unknown.
        keys: Detectron2 key to value, of everything that the file states.
        stated_input: whether the file states its pixel mean, deviation and channel order.
        likely: keys and values that files of its age have where they do not say; they hold for a
            config that is made of the file alone.
        whole_detector: whether it holds a detector, not a backbone alone.
        class_names: of the dataset.
        config: the full config as YAML, in files of this package.
        unsupported: settings that this package cannot do, each with its value and why.
        unread: texts that could not be read.
        assumed: what the file does not say, and what is taken in its place.
        notes: settings that are read and not taken over.
        recipe: how the weights were trained, one sentence each.
    """

    path: str
    source: str = ""
    family: str | None = None
    keys: dict[str, Any] = field(default_factory=dict)
    stated_input: bool = False
    likely: dict[str, Any] = field(default_factory=dict)
    whole_detector: bool = True
    class_names: list[str] | None = None
    config: str | None = None
    unsupported: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recipe: list[str] = field(default_factory=list)


class Node:
    """A dictionary of a config, with its place in it; what cannot be read counts as absent.

    ``node("nms_pre")`` gives a value, ``node.child("nms")`` the dictionary of that name (empty
    where there is none), ``node.refuse("dcn", "...")`` notes that it cannot be done.
    """

    def __init__(self, values: Any, place: str, settings: Settings):
        self.values: dict[Any, Any] = values if isinstance(values, dict) else {}
        self.place = place
        self.settings = settings

    def __bool__(self) -> bool:
        return bool(self.values)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __call__(self, *names: str, default: Any = None) -> Any:
        """The first of ``names`` that is stated and can be read."""
        for name in names:
            if name in self.values:
                value = self.values[name]
                if isinstance(value, Unread):
                    self.settings.unread.append(f"{self.place}.{name}: {value.text}")
                    continue
                if name == "type" and isinstance(value, str):
                    # "mmdet.FCOS" of 3.x's scopes; its lazy configs write the whole module.
                    return value.rpartition(".")[2]
                return value
        return default

    def number(self, *names: str, default: Any = None) -> Any:
        """As a call, for a number; anything else is refused."""
        value = self(*names)
        if value is None:
            return default
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        self.refuse(names[0], "a number is expected")
        return default

    def child(self, *names: str) -> "Node":
        """The dictionary of the first of ``names`` that is one; else an empty one."""
        for name in names:
            if isinstance(self.values.get(name), dict):
                return Node(self.values[name], f"{self.place}.{name}", self.settings)
        return Node({}, f"{self.place}.{names[0]}", self.settings)

    def children(self, name: str) -> list["Node"]:
        """The dictionaries of a list, or the one in its place."""
        value = self.values.get(name)
        if isinstance(value, dict):
            return [self.child(name)]
        if not isinstance(value, (list, tuple)):
            return []
        return [
            Node(item, f"{self.place}.{name}[{i}]", self.settings)
            for i, item in enumerate(value)
            if isinstance(item, dict)
        ]

    def refuse(self, name: str, why: str) -> None:
        """Note a setting that this package cannot do."""
        text = f"{self.place}.{name} = {_short(self.values.get(name))}: {why}"
        if text not in self.settings.unsupported:
            self.settings.unsupported.append(text)

    def refuse_unless(self, name: str, allowed: tuple, why: str) -> None:
        """Refuse a setting that is stated and none of ``allowed``."""
        value = self(name)
        if name in self.values and not isinstance(self.values[name], Unread):
            value = tuple(value) if isinstance(value, list) else value
            if value not in allowed:
                self.refuse(name, why)

    def walk(self) -> Iterator["Node"]:
        """This dictionary and all below it."""
        yield self
        for name in list(self.values):
            for child in self.children(str(name)) if isinstance(name, str) else ():
                yield from child.walk()


def _short(value: Any) -> str:
    text = value.text if isinstance(value, Unread) else repr(value)
    return text if len(text) <= 80 else text[:76] + " ..."
