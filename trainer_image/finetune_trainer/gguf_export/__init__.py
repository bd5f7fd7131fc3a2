"""The result as one GGUF file for llama.cpp and what is built on it.

Only what is proved is written: every architecture and every way to split text in the tables here is
compared with llama.cpp itself by ``tests/llama_cpp``. Anything else is refused while the job is
prepared.
"""
