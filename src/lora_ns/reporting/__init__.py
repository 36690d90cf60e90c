"""Statistics, tables, figures and the HTML report, made from the score files."""
