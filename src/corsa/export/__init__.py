"""A round in the form other programs load; one file per format. See docs/serving.md."""
