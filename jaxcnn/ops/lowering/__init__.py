"""How convolution is computed on a CPU: one file for each form, and a table that chooses among them by shape."""
