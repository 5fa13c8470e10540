"""Reading, checking and tokenising what people have: conversations, preferences, prompts."""

__all__ = [
    "annotators", "byte_files", "chat_template", "conversations", "foreign", "foreign_tools", "formats",
    "hf_tokenizer", "layout", "lint", "load", "marks", "messages", "pair_choice", "preferences", "prompts", "rankings",
    "ratings", "reading", "replies", "safety", "shapes", "sources", "splits", "template_probe", "token_bytes",
    "tokenizers", "verdicts",
]  # fmt: skip
