"""What is said about an image, beside it: where it came from, and what is in it."""
