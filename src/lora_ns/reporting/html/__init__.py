"""The report: one HTML file with the tables, interactive figures, every run, and runs compared example by example.

content.py    what the page opens with: tables, runs, figures' data
details.py    what it unpacks when a run is opened: config, curve, answers, provenance
page.py       both, with the page's own code (page/) and plotly, as one file that asks for nothing from outside
"""
