"""What one writes without this engine: small transfer endpoints of other designs, for the same load."""
