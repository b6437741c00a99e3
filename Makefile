PYTHON ?= python3
RUN := .venv/bin/python
# A process for each core, one thread each; the tests of a file share their fixtures.
PYTEST_ARGS := -m pytest -n auto --maxprocesses 8 --dist loadfile
PYTEST := OMP_NUM_THREADS=1 $(RUN) $(PYTEST_ARGS)

.PHONY: help env test test-slow test-export test-ray lint typecheck format docs wheel-check demo clean

help:
	@echo "make demo         set up, train a detector on built-in data, evaluate it, draw its detections"
	@echo "make test         set up, run the tests"
	@echo "make test-slow    set up, run the tests that take minutes"
	@echo "make test-export  set up with the extras onnx, openvino and int8, run all tests of exports"
	@echo "make test-ray     set up .venv-ray too, run the tests of tracking, of the engine ray and of formats"
	@echo "make lint         set up, check style and types"
	@echo "make typecheck    set up, check types only"
	@echo "make format       set up, rewrite the code in the project's style"
	@echo "make docs         set up, build the handbook: docs/_build/html/index.html"
	@echo "make wheel-check  build the wheel, install it into a bare environment, predict with it"
	@echo "make env          set up only: .venv with everything in it"
	@echo "make clean        remove what the other targets made"
	@echo "Another Python:   make env PYTHON=python3.12"

env:
	@tools/setup_env.sh $(PYTHON)

test: env
	$(PYTEST) -m "not slow"

test-slow: env
	$(PYTEST) -m slow

# The other suites skip what needs the extras; here a test that is skipped has failed.
test-export: env
	@tools/setup_export_env.sh
	OMP_NUM_THREADS=1 HRNET_D2_BARE_PYTHON=$(CURDIR)/.venv-bare/bin/python \
		.venv-export/bin/python $(PYTEST_ARGS) --no-skips \
		tests/export tests/inference/test_openvino_backend.py

test-ray: env
	tools/setup_ray_env.sh
	OMP_NUM_THREADS=1 .venv-ray/bin/python -m pytest tests/prediction/test_ray.py tests/prediction/test_tracking.py \
		tests/prediction/test_outputs.py

lint: typecheck
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

typecheck: env
	$(RUN) -m mypy

format: env
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: env
	$(RUN) -m sphinx -W --keep-going -b html docs docs/_build/html

wheel-check:
	$(PYTHON) tools/check_wheel.py

demo: env
	$(RUN) demo/quick_start.py --output output/demo

clean:
	rm -rf .venv .venv-export .venv-bare .venv-ray output build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
