"""A page that shows what a detector does, and why its AP is what it is: ``hrnet-d2 report``."""

from .write import ReportFiles, write_report, write_reports

__all__ = ["ReportFiles", "write_report", "write_reports"]
