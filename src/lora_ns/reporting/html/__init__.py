"""The report: one HTML file with the tables, interactive figures, every run, and runs compared example by example.

content.py    data of the first view: tables, runs, figures' data
details.py    data unpacked when a run is opened: config, loss curve, completions, provenance
page.py       both, with the page's own code (page/) and plotly, as one self-contained file
"""
