"""Text of files that others wrote, made safe to print."""

__all__ = ["printable"]


def printable(text: str, keep: str = "") -> str:
    """Text with its control characters escaped as in Python source, such as ``\\x1b``.

    A terminal would obey them: move the cursor, change its title, hide what was printed.

    Args:
        text: any text.
        keep: characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )
