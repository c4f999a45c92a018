"""The weekly report as a value, and its text and JSON forms. Pure: no files, no clock, no web.

* what a report holds: ``values``; what is said with: ``words``
* its parts: ``headline`` (the week in a sentence, the home in numbers), ``sheets`` (an experiment each) with
  ``summaries`` and ``outcome_rows``, ``changes`` (the audit trail), ``refusals`` (what was not done),
  ``next_steps`` (what to do, what waits)
* its text: ``plain_text``; the page is made by :mod:`cro_core.rendering`
"""

from cro_core.reporting.plain_text import as_text
from cro_core.reporting.values import SCHEMA, Report, as_json

__all__ = ["SCHEMA", "Report", "as_json", "as_text"]
