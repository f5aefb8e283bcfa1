"""The tables of the toy study."""

from rich.table import Table

POSTER_RANDOM = 5.38  # "random" as printed there; random colours are consistent with 7.715%


def toy_tables(report: dict) -> list[Table]:
    """The table of the poster beside theory and network, and the matrix of agreement."""
    main = Table(
        title=f"Consistent samples on {report['data']['name']}, in % ({report['scale']['sampling']} sampling steps)", title_justify="left"
    )
    for column in (
        "model",
        "poster",
        "theory (95% interval)",
        "network, mean of seeds",
        "r2 with its theory",
        "same labels",
        "nearest theory",
    ):
        main.add_column(column, justify="left" if column in ("model", "nearest theory") else "right")
    main.add_row("random", f"{POSTER_RANDOM}", f"{100 * report['random']:.2f} (exact)", "", "", "", "")
    for row in report["rows"].values():
        theory, network, own = row["theory"], row["network"], row["agreement"][row["theory_name"]]
        spread = f" ± {100 * network['spread']:.1f}" if network["spread"] is not None else ""
        main.add_row(
            row["title"], f"{row['poster']}" if row["poster"] else "",
            f"{100 * theory['value']:.1f} [{100 * theory['low']:.1f}, {100 * theory['high']:.1f}]{_doubt(report, row['theory_name'])}",
            f"{100 * network['mean']:.1f}{spread}", f"{own['r2_pearson']:.3f}", f"{100 * own['label_agreement']:.1f}%", row["nearest"],
        )  # fmt: skip
    gaps = Table(
        title="Loss of the network above its theory's optimum, per image (* below it by more than 3 standard errors)", title_justify="left"
    )
    times = next(iter(report["comparisons"].values()))["times"]
    for column in ("network", *(f"t {t:.3f}" for t in times)):
        gaps.add_column(column, justify="left" if column == "network" else "right")
    for row in report["rows"].values():
        own = row["agreement"][row["theory_name"]]
        gaps.add_row(row["title"], *(f"{g:+.3f}{'*' if b else ''}" for g, b in zip(own["gap"], own["below"], strict=True)))
    return [
        main,
        _matrix(report, "label_agreement", 100, "Samples in which network (down) and theory (across) have the same eight colours, in %"),
        _matrix(report, "r2_pearson_cells", 1, "Median r2 over the pixels that vary, network (down) and theory (across)"),
        gaps,
    ]


def _doubt(report: dict, theory: str) -> str:
    """A word where the certificate of a theory failed."""
    return "" if report["certified"].get(theory, True) else " (not certified)"


def _matrix(report: dict, key: str, unit: float, title: str) -> Table:
    """Agreement of every network with every theory, and of two seeds of a network with each other."""
    out = Table(title=title, title_justify="left")
    rows = report["rows"].values()
    names = list(next(iter(rows))["agreement"])
    for column in ("network", *names, "another seed"):
        out.add_column(column, justify="left" if column == "network" else "right")
    digits = 1 if unit == 100 else 3
    for row in rows:
        cells = [f"{unit * row['agreement'][n][key]:.{digits}f}" for n in names]
        out.add_row(row["title"], *cells, f"{unit * row['twins'][key]:.{digits}f}" if row["twins"] else "")
    return out
