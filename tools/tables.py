"""What the tables of measurements have in common; see build_speed_table.py."""

import textwrap

from tabulate import tabulate


def of_task(reports: list[dict], task: str) -> list[dict]:
    return [report for report in reports if report.get("task") == task]


def all_results(reports: list[dict]) -> list[dict]:
    return [result for report in reports for result in report["results"]]


def config_name(config: str) -> str:
    return f"`{config.rsplit('/', 1)[-1].removesuffix('.yaml')}`"


def markdown(rows: list[list], columns: list[str]) -> str:
    """Cells as they are, in Markdown."""
    return tabulate(rows, columns, tablefmt="pipe", disable_numparse=True)


def wrap_command(command: str, width: int = 120) -> str:
    """A shell command over several lines."""
    lines = textwrap.wrap(command, width, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)
