"""Passes that win back quality after a lossy one, without training."""
