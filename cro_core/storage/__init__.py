"""The store: everything that is written down, in a database and in a lake of sealed days.

* the database: ``database`` (opening it), ``schema``, ``migrations``; ``experiments``, ``events``, ``outcome_store``,
  ``look_states``, ``split_alarms``, ``decisions`` and ``evidence_json``, ``journal`` (audit trail, runs, recommendations)
* the lake: ``lake`` (its files), ``seals`` (which version counts), ``sealing`` (moving days into it), ``id_filters``
  (was this id sealed?), ``generations`` (what is kept of it), ``duckdb_connection`` (reading it)
* both: ``group_commit`` (many writers, one transaction), ``erasure`` (a visitor is forgotten)
"""
