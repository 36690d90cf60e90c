"""Base models, and the PEFT methods that are applied to them."""
