PYTHON ?= python3
RUN := .venv/bin/python
# A process for each core, one thread each; a file's tests share their fixtures.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 8 --dist loadfile

.PHONY: help env test test-slow lint demo clean

help:
	@echo "make demo        set up, train a detector on built-in data, evaluate it, draw its detections"
	@echo "make test        set up, run the tests"
	@echo "make test-slow   set up, run the tests that take minutes"
	@echo "make lint        set up, check the style"
	@echo "make env         set up alone: .venv with everything in it"
	@echo "make clean       remove what the other targets made"

env:
	@tools/setup_env.sh $(PYTHON)

test: env
	$(PYTEST) -m "not slow"

test-slow: env
	$(PYTEST) -m slow

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

demo: env
	$(RUN) demo/quick_start.py --output output/demo

clean:
	rm -rf .venv output build dist *.egg-info .pytest_cache .ruff_cache
