"""paper.tex: a complete LaTeX document that includes the tables and figures."""

import re
from collections.abc import Sequence

from lora_ns.reporting.results import Experiment
from lora_ns.reporting.tables.latex import escape, label
from lora_ns.reporting.tables.table import Table

_PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[a4paper, margin=2cm]{geometry}
\usepackage{textcomp}
\usepackage{array}
\usepackage{booktabs}
\usepackage{longtable}
\usepackage{siunitx}
\usepackage{graphicx}
\sisetup{group-minimum-digits = 5, group-separator = {,}}"""


FIGURES = {
    "pareto": "Quality against cost; the line joins the methods that no other one beats in both. Open: trained at once "
    "with other runs, the memory is that of all of them.",
    "seeds": "Every seed's value; black: their mean, grey: its 95 % interval.",
    "learning_curves": "Training loss: mean over seeds, the band from the lowest to the highest seed.",
    "learning_rate": "Sensitivity to the learning rate on the validation split; the ring is the one chosen.",
    "calibration": "Calibration of the classifiers, all seeds together: accuracy against predicted probability, and the "
    "expected calibration error (ECE).",
}
"""Figure in results/figures/<experiment>/ -> its caption."""


def paper(experiment: Experiment, tables: Sequence[Table], folder: str) -> str:
    """Return the document; it inputs each table from the same folder, and each figure if its file exists.

    folder: the experiment's folder name, the same under results/tables and results/figures.
    """
    head = [_PREAMBLE, rf"\title{{{escape(experiment.heading)}}}", r"\date{}", r"\author{}"]
    includes = [rf"\input{{{table.name}.tex}}" for table in tables if table.sections]
    # TeX cannot include from a folder with special characters in its name
    drawn = [_figure(experiment, name, folder) for name in FIGURES if re.fullmatch(r"[\w.-]+", folder, re.ASCII)]
    body = [r"\begin{document}", r"\maketitle", *includes, r"\clearpage", *drawn, r"\end{document}"]
    return "\n".join([*head, *body]) + "\n"


def _figure(experiment: Experiment, name: str, folder: str) -> str:
    path = f"../../figures/{folder}/{name}.pdf"
    include = rf"\includegraphics[width=\linewidth,height=.8\textheight,keepaspectratio]{{{path}}}"
    said = rf"\caption{{{escape(experiment.caption_of(FIGURES[name]))}}}\label{{{label(f'fig:{experiment.name}-{name}')}}}"
    return rf"\IfFileExists{{{path}}}{{\begin{{figure}}[htbp]\centering{include}{said}\end{{figure}}}}{{}}"
