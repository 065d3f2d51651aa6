"""Processes that train together, each on its own part of every batch."""
