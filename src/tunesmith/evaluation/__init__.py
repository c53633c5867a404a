"""What the model is worth: metrics, intervals, baselines, calibration, and the words that say it.

`measure.evaluate` makes `evaluation.json`; `findings.sections` and `findings.verdict` turn it into the report.
Arrays in, numbers out: nothing here knows a model, and scipy and scikit-learn are imported only where they work.
"""
