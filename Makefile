PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test test-slow lint bench clean

# The main job: every machine on the toy data, into runs/toy.
demo: $(VENV)/.installed
	$(RUN) -m theory.solve --dataset toy --out runs/toy

test: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow"

# What takes more than ten seconds each: training, solving to a reference, being killed.
test-slow: $(VENV)/.installed
	$(RUN) -m pytest -m slow

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
