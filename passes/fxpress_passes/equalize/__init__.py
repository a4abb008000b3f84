"""Passes that spread a layer's difficulty between its inputs and its weights, so that few bits are enough for both."""
