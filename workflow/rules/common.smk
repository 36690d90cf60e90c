"""What all rules share: no name of an artefact is taken apart, each is a whole wildcard."""


wildcard_constraints:
    run=r"[^/]+",
    evaluation=r"[^/]+",
    rows=r"[^/]+",
    tokens=r"[^/]+",
    base=r"[^/]+",
    merged=r"[^/]+",
    choice=r"[^/]+",
    job=r"[^/]+",
