"""Mutations of text files: of the values of a JSON tree, and of the words of any other text."""

import json
import random
import re
from collections import Counter
from typing import Any

from tests.fuzz.mutation import Mutator

__all__ = ["TextMutator"]

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 10**9, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0),
    *(1e-300, 1e7, 1e308, float("nan"), float("inf"), "", " ", "0", "1", "nan", "false", "../x"),
    *(
        "/etc/passwd",
        "a\0b",
        "\ud800",
        "é" * 300,
        "1" * 400,
        [],
        {},
        [[]],
        [None],
        [0, 0],
        [1, 2, 3],
    ),
    *([0, 0, 1, 1], [0.5] * 6, [[1, 1, 2, 2]], {"a": 1}, {"counts": "", "size": [0, 0]}),
    *({"counts": [1], "size": [1, 1]}, {"counts": "0" * 40, "size": [48, 64]}, [1] * 3000),
)
_WORDS = (
    *("", "0", "-1", "1", "2", "99", "1e9", "1e400", "nan", "inf", "-inf", "0.5", "null", "~", "a"),
    *("true", "2147483648", "9223372036854775808", "1" * 400, "..", "../..", "/etc/passwd", "é"),
    *(
        "\0",
        "\ufeff",
        "\r\n",
        "\n",
        "\t",
        " ",
        "  ",
        ":",
        "- ",
        "#",
        "%",
        "!",
        "&a",
        "*a",
        "<<",
        "|",
    ),
    *("{", "}", "[", "]", "'", '"', "<", ">", "</", "/>", "&lt;", "&a;", "<!--", "]]>", "\\", "`"),
    *("!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!set", "!!binary x"),
    *("!!int ''", "!!bool x", "!!timestamp x", "'{[]: 1}'", f"'{'-' * 10**5}1'"),
    "(" * 150 + ")" * 150,
    *("_BASE_", "MODEL", "VERSION: 1\n", "NAME", "images", "size", "object", "- - - - -", "? "),
    '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>',
    '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
)


class TextMutator:
    """Mutates a text file in a random way; about one in ten as a file of bytes."""

    def __init__(self, chance: random.Random):
        self.chance = chance
        self.used: Counter[str] = Counter()

    def __call__(self, data: bytes) -> tuple[bytes, str]:
        """The mutated file, and the kind of its mutation."""
        kinds = [self._words, self._words, self._lines]
        if data[:1] in b"[{":
            kinds = [self._tree] * 6 + kinds
        kind = self._bytes if self.chance.random() < 0.1 else self.chance.choice(kinds)
        self.used[kind.__name__] += 1
        for _ in range(self.chance.choice((1, 1, 1, 2, 4))):
            data = kind(data)
        return data, kind.__name__

    def _bytes(self, data: bytes) -> bytes:
        mutator = Mutator({"file": data}, self.chance)
        kinds = (mutator.flip, mutator.number, mutator.cut, mutator.splice, mutator.repeat)
        return self.chance.choice(kinds)(data)

    def _tree(self, data: bytes) -> bytes:
        """A value of a JSON file is replaced, removed, doubled or moved."""
        try:
            tree = json.loads(data)
        except ValueError:
            return self._words(data)
        places = list(_places(tree)) if isinstance(tree, dict | list) else []
        if not places:
            return json.dumps(self.chance.choice(_VALUES)).encode()
        # The leaves of a tree are many, and its upper branches decide more.
        depth = self.chance.choice([len(path) for path in places])
        *path, last = self.chance.choice([p for p in places if len(p) == depth])
        parent = _at(tree, path)
        roll = self.chance.random()
        if roll < 0.6:
            parent[last] = self.chance.choice(_VALUES)
        elif roll < 0.75:
            del parent[last]
        elif roll < 0.9:
            parent[last] = _at(tree, self.chance.choice(places))
            tree = json.loads(json.dumps(tree)) if not _contains(parent[last], parent) else None
        elif isinstance(parent, list):
            parent.append(parent[last])
        else:
            parent[f"{last}{self.chance.choice(('', 's', '_', ' '))}"] = parent.pop(last)
        return json.dumps(tree).encode()

    def _words(self, data: bytes) -> bytes:
        """A word, number or sign is replaced, removed, doubled or moved."""
        words = re.findall(r"[\w.+-]+|\s+|.", data.decode("utf-8", "replace"), re.DOTALL) or [""]
        at = self.chance.randrange(len(words))
        roll = self.chance.random()
        if roll < 0.5:
            words[at] = self.chance.choice(_WORDS)
        elif roll < 0.65:
            words[at] = ""
        elif roll < 0.8:
            words.insert(at, self.chance.choice(_WORDS))
        elif roll < 0.9:
            words[at] = self.chance.choice(words)
        else:
            words[at] *= self.chance.choice((2, 100, 3000))
        return "".join(words).encode("utf-8", "replace")

    def _lines(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True) or [b""]
        at = self.chance.randrange(len(lines))
        roll = self.chance.random()
        if roll < 0.4:
            del lines[at]
        elif roll < 0.7:
            lines.insert(at, self.chance.choice(lines) if lines else b"")
        else:
            self.chance.shuffle(lines)
        return b"".join(lines)


def _places(tree: Any, path: tuple = ()) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def _at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _contains(tree: Any, wanted: Any) -> bool:
    if tree is wanted:
        return True
    if not isinstance(tree, dict | list):
        return False
    return any(_contains(v, wanted) for v in (tree.values() if isinstance(tree, dict) else tree))
