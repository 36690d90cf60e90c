"""Scores become what people read: statistics, tables, figures, the HTML report."""
