"""Measures what mbuild costs, beside other builders where they are installed."""
