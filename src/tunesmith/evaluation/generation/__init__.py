"""Evaluating a model that writes: metrics, measurement, findings."""
