"""The pages and the HTTP interface of `thumbs collect`."""
