"""Identity, names and files: what an artefact is called, where it lies, and when it exists."""
