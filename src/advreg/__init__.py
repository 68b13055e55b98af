"""advreg: train networks to withstand adversarial inputs, and measure honestly how robust they are.

The public names are listed once, in ``__init__.pyi``; each is imported when it is first used.
"""

from advreg._lazy import attach_stub
from advreg._moved import serve_moved_modules
from advreg.version import __version__ as __version__

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
serve_moved_modules()
