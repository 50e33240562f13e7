"""Reports: what a catalog knows, gathered once and shown as a page, a summary or JSON."""

from buildvm_nb.report.report import Cell, Entry, Matrix, Report, Spring, gather_report, render_page

__all__ = ["Cell", "Entry", "Matrix", "Report", "Spring", "gather_report", "render_page"]
