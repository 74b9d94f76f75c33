"""Call a model. Each engine is a process of its own that speaks llama.cpp's HTTP API on loopback."""
