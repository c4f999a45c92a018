"""Who converts, when and where: an experiment by device, place, time and page."""
