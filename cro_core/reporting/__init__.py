"""The weekly report as a value, and its text and JSON forms. Pure: no files, no clock, no web.

:mod:`~cro_core.reporting.values` says what a report holds, :mod:`~cro_core.reporting.build` makes it from
experiments and decisions, :mod:`~cro_core.reporting.words` says numbers as people do, and
:mod:`~cro_core.reporting.plain_text` writes the 80 columns. The page is made by :mod:`cro_core.rendering`.
"""

from cro_core.reporting.plain_text import as_text
from cro_core.reporting.values import SCHEMA, Report, as_json

__all__ = ["SCHEMA", "Report", "as_json", "as_text"]
