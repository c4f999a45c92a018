"""Tables and event logs of any origin, turned into events by a declarative mapping (see docs/importing.md)."""
