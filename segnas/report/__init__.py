"""The report of a run: `write_report(run)` turns its files into one page that a person reads.

Read `information.py` (get the information), then `sections.py` and `courses.py` (what is shown); `drawings.py`, `plots.py`
and `tables.py` draw, `page.py` puts it together.
"""

from segnas.report.page import write_report

__all__ = ["write_report"]
