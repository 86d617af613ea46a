"""Speed at any size, with random weights and the lengths of real GSM8K rows."""
