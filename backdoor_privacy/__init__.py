"""Remove a person's name and face from a CLIP model, and prove it."""

import os

# Threads that wait must not spin: where the cores are shared, spinning makes PyTorch up to five times as slow on a CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
