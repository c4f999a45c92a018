"""For any WSGI server: ``CRO_HOME=/path gunicorn --threads 16 service.wsgi:app``.

Importing this module makes the application of ``CRO_HOME``. One process with threads is what the store is
made for; several processes work too.
"""

from __future__ import annotations

from service.app import create_app
from service.fast_path import with_fast_path

app = with_fast_path(create_app())
