"""The only storage: control facts, request journal, inference table, blobs, audit log."""
