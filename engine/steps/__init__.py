"""One module an instruction that does work."""
