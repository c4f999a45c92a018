"""What people look at: pages, tables and plots as HTML with inline SVG, and notebooks as pages.

:mod:`~cro_core.rendering.html` has the building blocks, :mod:`~cro_core.rendering.plots` the plots,
:mod:`~cro_core.rendering.sections` the parts of a report, :mod:`~cro_core.jupyter.export` turns an executed
notebook into one self-contained page, and :mod:`~cro_core.jupyter.dashboard` starts Voila. Nothing here
asks the network for anything.
"""
