"""What our web applications share."""

__all__ = ["guards", "listening", "proxies", "safe_text", "signing"]
