"""How training looks for the worst case: attacks that cost what they promise and are judged by nobody."""

from advreg.training.inner.fgsm_pgi import Prior, Stored
from advreg.training.inner.friendly_pgd import friendly
from advreg.training.inner.from_config import OBJECTIVES, from_section, maximising
from advreg.training.inner.gaussian_start import near
from advreg.training.inner.n_fgsm import Untouched, n_fgsm, unattacked

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
