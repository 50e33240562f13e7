"""Reports: what a catalog knows, gathered once and shown as a page, a summary or JSON."""

from buildvm_nb.report.report import Cell as Cell
from buildvm_nb.report.report import Entry as Entry
from buildvm_nb.report.report import Matrix as Matrix
from buildvm_nb.report.report import Report as Report
from buildvm_nb.report.report import Spring as Spring
from buildvm_nb.report.report import gather_report as gather_report
from buildvm_nb.report.report import render_page as render_page
