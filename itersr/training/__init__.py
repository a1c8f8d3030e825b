"""Training: the data, the losses, one plain loop, and what it runs: Stage I (`stage1`) and Algorithm 1 (`algorithm1`)."""
