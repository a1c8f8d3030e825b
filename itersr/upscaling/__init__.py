"""Upscaling from files to files: `read`, `write`, and `files` for many at once."""
