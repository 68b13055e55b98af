"""Common corruptions: changes by cameras, weather and storage, not by an adversary."""

from advreg.attacks.corruptions.evaluate import CORRUPTIONS, SEVERITIES, corrupt, corruption_accuracy

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt", "corruption_accuracy"]
