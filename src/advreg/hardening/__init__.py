"""Hardening of a deployed model: collect suspicious inputs from production, review, retrain, evaluate, promote, roll back.

client -> service -> store -> review -> admission -> snapshot -> retraining -> gate -> registry
"""
