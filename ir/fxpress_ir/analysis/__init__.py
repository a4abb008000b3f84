"""Facts read off a graph alone."""
