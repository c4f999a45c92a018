"""``python -m cro_core.cli``, where the script ``cro`` is not on the path."""

from cro_core.cli import main

main()
