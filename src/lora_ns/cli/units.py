"""Short texts for sizes, counts and durations."""


def bytes_as_text(size: float | None) -> str:
    """Return `14 MiB`, `1.2 GiB`; a dash for None."""
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def count_as_text(number: float | None) -> str:
    """Return `5.3k`, `1.5G`; a dash for None."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T")).replace(" ", "")


def seconds_as_text(seconds: float | None) -> str:
    """Return `8 s`, `12 min`, `3.2 h`, `2.5 d`; a dash for None."""
    if seconds is None:
        return "–"
    for size, unit in ((86400 * 2, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{_figures(seconds / {'d': 86400, 'h': 3600, 'min': 60}[unit])} {unit}"
    return f"{_figures(seconds)} s"


def _scaled(number: float | None, base: int, units: tuple[str, ...]) -> str:
    if number is None:
        return "–"
    value, place = float(number), 0
    while value >= base and place < len(units) - 1:
        value, place = value / base, place + 1
    return f"{_figures(value) if place else format(value, '.0f')} {units[place]}".rstrip()


def _figures(value: float) -> str:
    """Format without decimals from 10 on or for whole numbers, else with one decimal."""
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"
