"""Text of files that others wrote, made safe to print."""

import re

import yaml

__all__ = ["YAML_ERRORS", "message_of", "printable"]

# What PyYAML's safe loader raises: its own errors, and whatever comes of a value that does not fit
# its tag, such as "!!int ''".
YAML_ERRORS = (yaml.YAMLError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

# Control characters, and those that turn the direction of the text after them.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_WORD = 300  # longer than any file name
_LONG = re.compile(rf"[^\s/\\]{{{_LONGEST_WORD},}}")
_LONGEST_MESSAGE = 4500


def printable(text: str, keep: str = "") -> str:
    """Text with its control characters escaped as in Python source, such as ``\\x1b``.

    A terminal would obey them: move the cursor, change its title, hide what was printed.

    Args:
        text: any text.
        keep: characters to leave as they are.
    """

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in keep else ascii(character)[1:-1]

    return _UNSAFE.sub(escape, text)


def message_of(text: str) -> str:
    """Text that quotes a file, as the message of an error: printable, and bounded in length."""
    text = printable(text, keep="\n")
    text = _LONG.sub(lambda word: f"{word[0][:80]}... ({len(word[0])} characters)", text)
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[: _LONGEST_MESSAGE - 500]} ... {text[-400:]}"
    return text
