"""The words everything else is written in: slices, windows, errors, the provider contract."""
