"""Passes that tidy a graph and change no bit."""
