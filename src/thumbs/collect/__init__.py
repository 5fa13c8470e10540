"""People's judgements of replies: asked for, kept, weighed, exported."""
