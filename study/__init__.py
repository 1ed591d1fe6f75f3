"""Trains the demo model and measures what guidance does to it; part of the repository, not of the wheel."""
