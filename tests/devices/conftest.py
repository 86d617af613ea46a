"""These tests need several devices, which JAX makes of one CPU only if it is told so before it starts.

tests/test_many_devices.py runs them in a process of its own; without that they are not collected.
"""

import os

if "--xla_force_host_platform_device_count=4" not in os.environ.get("XLA_FLAGS", ""):
    collect_ignore_glob = ["test_*.py"]
