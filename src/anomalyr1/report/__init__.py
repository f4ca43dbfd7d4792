"""Pictures and pages of inspections."""

from anomalyr1.report.inspection_page import About, outcome, page, write
from anomalyr1.report.overlay import overlay
from anomalyr1.report.text import visible

__all__ = ["About", "outcome", "overlay", "page", "visible", "write"]
