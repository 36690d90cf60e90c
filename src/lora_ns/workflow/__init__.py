"""The questions of the DAG, and each stage after the stages that it needs."""
