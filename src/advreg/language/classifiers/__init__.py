"""Text classifiers: models, training, attacks on their embeddings and word substitution."""
