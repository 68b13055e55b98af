"""Common corruptions: not an adversary, but what cameras, weather and storage do to images."""

from advreg.attacks.corruptions.evaluate import CORRUPTIONS, SEVERITIES, corrupt, corruption_accuracy

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt", "corruption_accuracy"]
