"""One module a command; each has `main(arguments, cancelled) -> exit code`."""
