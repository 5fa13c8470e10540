"""Objects that live in other processes: a crew starts them, and a call of a method gives a future."""
