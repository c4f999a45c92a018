"""The one definition of every number, and where it runs: this process, or a cluster."""
