"""The explorer: one self-contained page on which every pixel of a sample tells where it comes from (``python -m figures.explore``).

`models` says who is shown, `attention` takes a guess apart, `trace` computes what the page shows of one sample, `pack` makes it small,
`numbers` measures the models, `page` writes the file, and `serve` answers what no file can hold. The page itself is ``page.html``,
``explorer.css`` and the modules of plain JavaScript beside them.
"""
