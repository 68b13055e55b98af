"""Evaluation of language models: tasks, metrics with confidence intervals, and the loop that measures and resumes."""
