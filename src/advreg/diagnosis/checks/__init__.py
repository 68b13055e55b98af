"""The checks of a diagnosis, a module for each symptom of a figure that cannot be trusted."""
