"""Machines: an image whose program runs already, kept, run again, and moved."""
