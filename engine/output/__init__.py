"""What -o writes."""
