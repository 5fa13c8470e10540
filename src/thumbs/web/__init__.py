"""What our web applications share."""
