"""What the operator and the trainer cost and how fast they are."""
