"""The training and sampling clients: the Tinker surface, in process."""

__all__ = [
    "backend", "bases", "checkpoint_folders", "checkpoint_store", "claim", "custom_loss", "drawing", "futures",
    "lanes", "policy_watch", "prompt_scoring", "rest_client", "reverse_kl", "sample_call", "sampling",
    "sampling_client", "served_weights", "service_client", "store", "tables", "training_client", "translate",
    "types", "worker",
]  # fmt: skip
