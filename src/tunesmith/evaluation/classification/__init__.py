"""Evaluating a classifier: metrics, measurement, findings, baselines, calibration."""
