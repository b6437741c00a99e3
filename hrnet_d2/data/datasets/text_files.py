"""Reading the text, YAML and XML files of a dataset, with errors that name the file."""

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from hrnet_d2.text import YAML_ERRORS

from .report import DatasetError

__all__ = ["is_there", "read_lines", "read_xml", "read_yaml", "root_tag"]


class _Texts(yaml.SafeLoader):
    """All plain scalars are texts; tags that would create other objects are refused."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; also of a name that none can have: too long, or with
    a zero byte."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def read_lines(file: Path) -> list[str]:
    """The lines of a text file in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it cannot be read, or is no such text.
    """
    try:
        return file.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} is not a text file in UTF-8: {error}") from error


def read_yaml(file: Path) -> Any:
    """The mappings, lists and texts of a YAML file; no text is taken for a number or a truth value,
    as class names such as ``no`` would be.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it cannot be read, or is not YAML.
    """
    text = "\n".join(read_lines(file))
    try:
        return yaml.load(text, Loader=_Texts)
    except YAML_ERRORS as error:
        raise DatasetError(f"{file} is not a YAML file: {_one_line(error)}") from error


def read_xml(file: Path) -> ET.Element:
    """The root of an XML file.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it cannot be read, or is not XML.
    """
    with _xml_errors(file):
        return ET.parse(file).getroot()


def root_tag(file: Path) -> str:
    """The name of an XML file's root, read from its beginning alone.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it cannot be read, or does not begin as XML.
    """
    with _xml_errors(file):
        for _, root in ET.iterparse(file, events=["start"]):
            return root.tag
    raise DatasetError(f"{file} is not an XML file: it has no element")


@contextlib.contextmanager
def _xml_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ET.ParseError, ValueError, LookupError) as error:  # the last: its encoding
        raise DatasetError(f"{file} is not an XML file: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
