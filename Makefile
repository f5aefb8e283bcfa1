PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo explorer figures docs test test-slow lint bench clean

# The main job: machines and full attention on the toy data, solved in two minutes, and the committed solution beside it, into runs/toy.
demo: $(VENV)/.core
	$(RUN) -m theory.solve --dataset toy --families full --reference results/toy-grid/theory/attention/full --out runs/toy

# Every claim as a picture, from the committed results, into figures/out; open index.html there.
figures: $(VENV)/.installed
	$(RUN) -m figures.make

# The toy data's pictures, in which every pixel tells where it comes from: open figures/out/explorer-toy.html.
explorer: $(VENV)/.installed
	$(RUN) -m figures.explore --dataset toy

# The documentation site, with the gallery and the explorer, into docs/_build.
docs: $(VENV)/.installed
	$(RUN) -m figures.make --out docs/_gallery/gallery
	$(RUN) -m figures.explore --dataset toy --out docs/_gallery/explorer/toy.html
	$(RUN) -m sphinx -q -W -b html docs docs/_build

test: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow" -n auto --dist worksteal

# What takes more than ten seconds each: training, solving to a reference, being killed.
test-slow: $(VENV)/.installed
	$(RUN) -m pytest -m slow -n auto --dist worksteal

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/biome ci .

bench: $(VENV)/.installed
	$(RUN) -m benchmarks.bench_posterior

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed: $(VENV)/.core
	$(RUN) -m pip install --quiet -c constraints.txt -e ".[data,test,browser,lint,bench,docs,diffusers]"
	touch $@

clean:
	rm -rf $(VENV) runs figures/out docs/_build docs/_gallery
