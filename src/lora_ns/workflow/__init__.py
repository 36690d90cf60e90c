"""The DAG's questions, answered without torch; and each stage after what it needs."""
