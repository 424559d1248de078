"""Keeping the store small: what is in it, what needs what, what may go."""
