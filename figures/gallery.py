"""The gallery: one self-contained HTML page with all figures, what they claim, and the numbers behind them."""

import base64
import html
from pathlib import Path

from figures.command import name_of
from figures.numbers import Numbers

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
 body {{ font: 17px/1.55 Georgia, serif; color: #222; background: #fff; max-width: 900px; margin: 2em auto; padding: 0 1em; }}
 h1, h2, nav, figcaption small {{ font-family: system-ui, sans-serif; }}
 h1 {{ font-size: 1.7em; line-height: 1.2; margin-bottom: .3em }}
 h2 {{ font-size: 1.2em; margin: 2.6em 0 .4em; padding-top: .6em; border-top: 1px solid #ccc; }}
 figure {{ margin: 0; }}
 img {{ max-width: 100%; height: auto; display: block; margin: .4em auto; }}
 figcaption {{ color: #333; }}
 figcaption small {{ display: block; color: #777; margin-top: .5em; }}
 nav {{ columns: 2; font-size: .9em; margin: 1.2em 0; }}
 nav a, figcaption a {{ color: #0072B2; text-decoration: none; }}
 nav a {{ display: block; padding: .1em 0; }}
 table {{ border-collapse: collapse; margin: 1em 0; font-family: system-ui, sans-serif; font-size: .9em; }}
 th, td {{ padding: .3em .8em; text-align: right; border-bottom: 1px solid #ddd; }}
 th:first-child, td:first-child {{ text-align: left; }}
</style>
</head>
<body>
<h1>{title}</h1>
{intro}
<nav>{links}</nav>
{figures}
</body>
</html>
"""
FIGURE = """<h2 id="{name}">{number}. {title}</h2>
<figure>
<img src="data:image/png;base64,{data}" alt="{title}">
<figcaption>{caption}<small>{name}.png, <a href="{name}.pdf">{name}.pdf</a>, numbers/{name}.json; drawn from the studies in
{results}; what is computed for the picture itself is of the size "{scale}": python -m figures.{name}</small></figcaption>
</figure>
"""


def write(out: Path, figures: list[tuple[object, Numbers]], title: str, intro: str) -> Path:
    """Write ``index.html`` beside the pictures, atomically.

    Args:
        out: The directory of the pictures.
        figures: Modules and what they were drawn from, in order.
        title: Of the page.
        intro: HTML before the figures.
    """
    parts, links = [], []
    for number, (module, numbers) in enumerate(figures, 1):
        name, heading = name_of(module), html.escape(module.TITLE)
        data = base64.b64encode((out / f"{name}.png").read_bytes()).decode()
        told = {key: html.escape(str(numbers.config[key])) for key in ("scale", "results")}
        parts.append(
            FIGURE.format(name=name, number=number, title=heading, data=data, caption=html.escape(module.caption(numbers)), **told)
        )
        links.append(f'<a href="#{name}">{number}. {heading}</a>')
    page = PAGE.format(title=html.escape(title), intro=intro, links="\n".join(links), figures="\n".join(parts))
    target = out / "index.html"
    partial = target.with_name(target.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    return partial.replace(target)
