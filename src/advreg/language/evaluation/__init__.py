"""Evaluation of language models: tasks, metrics with confidence intervals, and a loop that resumes."""
