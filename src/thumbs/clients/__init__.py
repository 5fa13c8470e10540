"""The training and sampling clients: the Tinker surface, in process."""
