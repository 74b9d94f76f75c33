"""Stage 3, watch: tests recent requests against a reference and answers against late labels, and raises alerts."""
