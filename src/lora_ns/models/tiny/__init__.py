"""The builtin base models: small models pretrained by this project."""
