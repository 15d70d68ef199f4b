"""What runs inside the worker process and touches MLX: a batch of answers over one model."""
