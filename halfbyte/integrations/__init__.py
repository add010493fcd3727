"""Doors for other programs: our layers inside transformers, and AutoAWQ's face over our quantizer and network."""
