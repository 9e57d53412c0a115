"""The experiments of ``zoft-bench nzk``: kernels and training against theory, and what sharing z gains."""
