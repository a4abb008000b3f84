"""Passes that win back quality after a lossy one, with and without training."""
