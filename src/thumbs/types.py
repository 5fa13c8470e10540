"""The clients' types under the name that code for hosted services imports; their home is `thumbs.clients.types`.

The engine's own records are in `thumbs.records` (docs/decisions/0011-records-and-types.md).
"""

from thumbs.clients.types import *  # noqa: F403
from thumbs.clients.types import __all__ as __all__
