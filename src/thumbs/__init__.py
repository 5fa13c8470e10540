"""thumbs: the whole of RLHF in one Python package."""

__version__ = "0.1.0"
