"""Read: for each operation the derivation, forward, backward and kernel, side by side."""
