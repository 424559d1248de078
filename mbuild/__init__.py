"""The command line and the progress display."""
