"""The nouns, one file per stage: frozen pydantic models without IO. Persisted records are append-only facts."""
