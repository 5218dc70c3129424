"""What rigbench uses of torch and bitsandbytes, and which versions have it. `python -m tests.api` writes it anew."""
