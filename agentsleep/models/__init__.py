"""Models that were built to sleep."""
