"""The host's side of things: its programs, its cache on disk, progress that people see."""
