"""CRO Intelligence: the logic behind the notebooks and the service.

Importing this package is cheap on purpose; ask for the module you need.
"""

__version__ = "0.1.0"
