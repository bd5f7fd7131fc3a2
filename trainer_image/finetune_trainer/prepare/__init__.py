"""Stage prepare: sources in, a safetensors model and packed token files out. Runs on CPU only."""
