"""Scores of answers and comparisons between them: values in, values out, without IO."""
