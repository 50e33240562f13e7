"""What Guix's virtual build machines speak: secrets, and in time their configuration."""
