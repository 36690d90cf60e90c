"""Identity -> names -> files: what an artefact is called, where it lies, and when it counts as there."""
