"""What the course measures and shows. Nothing else in itersr but the command line imports it."""
