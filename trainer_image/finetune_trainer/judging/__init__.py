"""What a model answers and what that is worth: prompts, decoding, scores, curves, the gate."""
