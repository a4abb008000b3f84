"""Neighbours that compute one thing become one: layers beside each other, layers in a row, scales and paddings."""
