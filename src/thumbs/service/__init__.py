"""The training service over HTTP: the Tinker and MinT protocol for many clients on one machine."""
