"""Text classifiers: the model, its adversarial training, and word substitution attacks."""
