"""Notebooks: executed strictly, their results recorded, made into pages, served by Voila."""
