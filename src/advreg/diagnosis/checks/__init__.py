"""The checks of a diagnosis, one module for each group."""
