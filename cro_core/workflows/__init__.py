"""The jobs of the product, one module each: load, compute, save; time and chance enter here.

* every hour: ``orchestrate`` (the cycle), ``evaluate`` (a look), ``seal``; ``run_job`` runs notebooks
* an experiment's life: ``plan_experiment``, ``feasibility``, ``guardrail_check``, ``create_experiment``, ``lifecycle``,
  ``proposals``, ``approval``, ``settle_split``, ``rollback``, ``error_budget``
* visitors: ``assign``, ``ingest``, ``catalog``, ``geolocate``, ``forget``; ``import_file`` with
  ``replay_hours``, ``import_outcomes``
* answers: ``overview``, ``explain``, ``replay``, ``analyse_segments``, ``measure_outcomes``, ``site_traffic``,
  ``write_report``
* ideas: ``open_backlog``, ``rank_assets``, ``train``, ``predict``
* to try it out: ``demo``, ``generate``, ``sample_home``, ``simulate``

``transaction`` is what every change takes along: home, connection, moment and who makes it.
"""
