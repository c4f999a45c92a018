"""The HTTP service: a thin Flask layer over :mod:`cro_core.workflows`.

``service.app.create_app`` makes the application, ``service.wsgi`` hands it to any WSGI server, and
``service.server.serve`` runs it with the one that ships. Importing the package does nothing.
"""
