"""What ADD and --build-context bring from afar: files over HTTP, git repositories, named contexts."""
