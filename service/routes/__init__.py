"""The endpoints, by who calls them: a new one is declared in one of these modules, or in a new one listed here."""

from __future__ import annotations

from service.endpoints import ApiSection
from service.routes import experiments, jobs, reads, system, visitors

SECTIONS: tuple[ApiSection, ...] = tuple(
    module.section for module in (visitors, reads, experiments, jobs, system)
)
