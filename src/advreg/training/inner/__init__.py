"""How training looks for the worst case: attacks that cost what they promise and are judged by nobody."""

from advreg.training.inner.choose import OBJECTIVES, from_section, maximising
from advreg.training.inner.friendly import friendly
from advreg.training.inner.near import near
from advreg.training.inner.single import Untouched, n_fgsm, unattacked
from advreg.training.inner.stored import Prior, Stored

__all__ = [
    "OBJECTIVES",
    "Prior",
    "Stored",
    "Untouched",
    "friendly",
    "from_section",
    "maximising",
    "n_fgsm",
    "near",
    "unattacked",
]
