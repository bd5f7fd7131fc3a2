"""What the operator costs and how fast it is, measured on the local cluster."""
