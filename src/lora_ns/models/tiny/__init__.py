"""The built-in base models: small, and pretrained here."""
