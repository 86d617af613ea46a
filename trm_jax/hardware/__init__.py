"""The machine: its devices and memory, and what is compiled for it."""
