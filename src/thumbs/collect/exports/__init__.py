"""Files of what people said: chosen by filters, in the formats that trainers read, each with a manifest."""

__all__ = ["dataset", "formats", "judged", "rows", "safety", "select", "write"]
