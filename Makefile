# Two commands set everything up: `make demo` and `make test`. They need Python 3.11, 3.12 or 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
CUDA ?= cuda13

# The suite's numerical tests, which a GPU may answer differently; the longest first.
ON_GPU := models/test_heads.py training/test_train_step.py ops/test_gpu_arithmetic.py ops/test_taps.py \
	models/test_model.py models/test_padding.py models/test_fold.py evaluation/test_inference.py \
	training/test_losses.py training/test_losses_of_the_reference.py models/test_recognizer.py \
	models/test_video.py models/test_head_options.py models/test_heads_attention.py \
	models/test_non_local.py ops evaluation/test_metrics.py

.PHONY: demo family quick test test-gpu lint types parity soak compiler package docs clean

demo: $(VENV)/.installed
	$(BIN)/python -m nonlocal_jax.demo

# The demo with every head, in fewer steps.
family: $(VENV)/.installed
	$(BIN)/python -m nonlocal_jax.demo --heads=all --workdir=runs/family \
		--config.total_steps=320 --config.eval_every=320 --config.checkpoint_every=80

# Lint, types, and the tests that compile little: an answer in two minutes.
quick: $(VENV)/.installed-test lint types
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not parity and not soak and not compiler and not package"

test: $(VENV)/.installed-test lint types
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# On a GPU, at the precision that tests/conftest.py states; with 16 cores, WORKERS=8. For drivers
# older than 580, CUDA=cuda12.
test-gpu: $(VENV)/.installed-$(CUDA)
	NONLOCAL_JAX_TEST_DEVICE=gpu $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
		--tb=short $(ON_GPU:%=tests/%)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# Full-width comparisons with the PyTorch reference, and long fuzzing: see docs/parity.md.
parity: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m parity

# Long tests: every setting, 300 random shapes of loss and masks, runs interrupted at random moments.
soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak

# What the TPU compiler says: memory of all rows on a v5e chip, plans, kernels; minutes each.
compiler: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m compiler -s

# Installs it in fresh environments; others: NONLOCAL_JAX_PYTHONS=python3.11:python3.12 make package
package: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m package tests/commands/test_package.py

# The site of docs/, in site/.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir=site

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.installed-$(CUDA): $(VENV)/.installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,$(CUDA)]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache
