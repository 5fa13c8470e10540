"""Reading, checking and tokenising what people have: conversations, preferences, prompts."""

__all__ = [
    "annotators", "byte_files", "chat_template", "conversations", "foreign", "foreign_tools", "formats",
    "hf_tokenizer", "hub", "layout", "lint", "load", "marks", "messages", "pair_choice", "preferences", "prompts",
    "rankings", "ratings", "reading", "replies", "safety", "shapes", "shared_sets", "sources", "splits",
    "template_probe", "token_bytes", "tokenizers", "verdicts",
]  # fmt: skip
