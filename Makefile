PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test lint bench clean

# The main job: every machine on the toy data, into runs/toy.
demo: $(VENV)/.installed
	$(RUN) -m theory.solve --dataset toy --out runs/toy

test: $(VENV)/.installed
	$(RUN) -m pytest

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

bench: $(VENV)/.installed
	$(RUN) -m benchmarks.bench_posterior

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt -e ".[data,test,lint,bench]"
	touch $@

clean:
	rm -rf $(VENV) runs
