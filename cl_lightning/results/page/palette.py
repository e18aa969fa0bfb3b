"""Colours of the page by name. Figure files use the light ones; a dark page replaces them by the dark ones.

Series colours are those of Okabe and Ito (distinct under common colour blindness), with more contrast on white.
"""

#: name -> (light page and files, dark page). Light colours are unique, because `as_properties` replaces them by value.
COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1c2128", "#e6edf3"),
    "muted": ("#57606a", "#9da7b3"),
    "rule": ("#d0d7de", "#3d444d"),
    "series0": ("#0072b2", "#56b4e9"),
    "series1": ("#c45500", "#f0913a"),
    "series2": ("#00795a", "#2fc49a"),
    "series3": ("#a6447b", "#df8dbb"),
    "series4": ("#7a6a00", "#d9c53c"),
    "series5": ("#5b4bb7", "#a99df0"),
    "series6": ("#8a3b1e", "#d98a6a"),
    "series7": ("#4b5a68", "#a3b1bf"),
}
INK, MUTED, RULE = (COLOURS[name][0] for name in ("ink", "muted", "rule"))
SERIES = [light for name, (light, _) in COLOURS.items() if name.startswith("series")]
#: Markers and lines that distinguish series in addition to colour.
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":")


def series(index: int) -> dict[str, str]:
    """Return colour, marker and line of a series; combinations are unique among the first 32."""
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index // len(SERIES) % len(LINES)],
    }


def properties(dark: bool) -> str:
    """Return the colours as CSS custom properties, `--name: colour`."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())


def as_properties(style: str) -> str:
    """Replace the light colours of a CSS style by the page's custom properties."""
    for name, (light, _) in COLOURS.items():
        style = style.replace(light, f"var(--{name})")
    return style
