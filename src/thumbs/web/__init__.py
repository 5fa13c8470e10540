"""What our web pages share."""

__all__ = ["guards", "listening", "proxies", "safe_text", "signing", "tables"]
