"""Weights of few bits, learnt layer by layer from calibration data."""
