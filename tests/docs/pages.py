"""The Markdown pages that users read, and what is in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANDBOOK = sorted((ROOT / "docs").glob("*.md"))
OTHERS = [
    ROOT / "README.md",
    ROOT / "MODEL_ZOO.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "tests" / "reference" / "README.md",
]
PAGES = [*HANDBOOK, *OTHERS]

RUNNABLE = "<!-- runnable -->"
_FENCE = re.compile(r"^```(\S*)\s*$")
_LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
_DEFINITION = re.compile(r"^\[[^\]]+\]: (\S+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_TARGET = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
_INCLUDE = re.compile(r"```\{include\} (\S+)\n.*?```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: ``page`` and ``line`` say where, ``runnable`` whether it is marked so."""

    page: Path
    line: int
    language: str
    text: str
    runnable: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    start, language, before = None, "", ""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if start is None and line.startswith("```"):
            start, language = number, fence[1] if fence else line[3:]
        elif start is not None and line == "```":
            text = "\n".join(lines[start : number - 1]) + "\n"
            found.append(Block(page, start, language, text, before == RUNNABLE))
            start = None
        if start is None or start == number:
            before = before if start == number else line
    assert start is None, f"{page}: the block at line {start} does not end"
    return found


def blocks_of(language: str) -> list[Block]:
    """The blocks of a language on all pages."""
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def links(page: Path) -> list[str]:
    """The targets of links, images and link definitions."""
    text = prose(page)
    return [*_LINK.findall(_CODE.sub("", text)), *_DEFINITION.findall(text)]


def code_spans(page: Path) -> list[str]:
    """What stands between backticks in the prose."""
    return _CODE.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """Names of a page's headings as GitHub and MyST derive them, and its explicit targets."""
    text = page.read_text(encoding="utf-8")
    for included in _INCLUDE.findall(text):
        text += (page.parent / included).read_text(encoding="utf-8")
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return {*slugs, *_TARGET.findall(outside)}


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block as lists of words, with its own variables filled in."""
    variables: dict[str, str] = {}
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        assigned = re.fullmatch(r"(\w+)=(.*)", words[0]) if len(words) == 1 else None
        if assigned:
            variables[assigned[1]] = assigned[2]
        elif words:
            yield [
                re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), word)
                for word in words
            ]
