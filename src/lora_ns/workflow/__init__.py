"""The workflow's input functions, planning, preflight checks, and the pipeline of stages."""
