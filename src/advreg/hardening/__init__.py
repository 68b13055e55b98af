"""The hardening loop: collect suspicious inputs from production, review, retrain, prove, promote, roll back.

client -> service -> store -> review -> admission -> snapshot -> retrain -> gate -> registry
"""
