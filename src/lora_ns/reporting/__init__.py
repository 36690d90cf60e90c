"""Scores -> what people read: statistics, tables, figures, the HTML report."""
