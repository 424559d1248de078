"""Rebuilding, comparing, and saying what differs and why."""
