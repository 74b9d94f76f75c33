"""Fairness, mitigation, personal data, the model card: judgement of values handed in, without IO."""
