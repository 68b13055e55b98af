"""Black-box attacks: they need scores, labels, or the gradient of another model."""

from advreg.attacks.blackbox.hopskipjump import hopskipjump
from advreg.attacks.blackbox.random_search import random_search
from advreg.attacks.blackbox.spsa import spsa
from advreg.attacks.blackbox.square import square
from advreg.attacks.blackbox.square_windows import window_share
from advreg.attacks.blackbox.transfer import transfer

__all__ = ["hopskipjump", "random_search", "spsa", "square", "transfer", "window_share"]
