# make demo   a small voice from the shipped corpus, start to end: runs/demo/
# make test   every test
# make lint   style and types
# make dist   sdist and wheel, checked: dist/
# make docs   the book, strictly: build/book

PYTHON ?= python3
BIN := .venv/bin
# Written last, so that an installation that broke is done again.
INSTALLED := .venv/installed
DEMO := runs/demo
SENTENCE ?= The quiet river carried the little boat home.

.PHONY: demo test lint docs dist clean
.DELETE_ON_ERROR:

# torch goes first and pinned: whatever needs torch later finds it there.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[test,preprocess]'
	$(BIN)/python -m pip install --quiet --no-deps Resemblyzer==0.1.4
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m vits_jax.preprocess --input-dir examples/demo --output-dir $(DEMO)/data \
	    --language en-us --sample-rate 16000 --dataset-format ljspeech
	$(BIN)/python -m vits_jax.train --dataset-dir $(DEMO)/data --run-dir $(DEMO)/run --quality demo
	$(BIN)/python -m vits_jax.infer --checkpoint $(DEMO)/run --output-dir $(DEMO) --text "$(SENTENCE)"
	@echo
	@echo "Spoken:      $(DEMO)/*.wav (it babbles: that was a few hundred steps)"
	@echo "Curves:      $(BIN)/tensorboard --logdir $(DEMO)/run"
	@echo "Longer:      $(BIN)/python -m vits_jax.train --dataset-dir $(DEMO)/data --run-dir $(DEMO)/run --quality demo --max_steps 3000"
	@echo "Your corpus: README.md, 'Train your own voice'"

# Two workers: each compiles on its own and holds a few GB. A file stays on one worker, so that
# what its tests compile is compiled once; the slow ones begin, so that both end together.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The wheel is made of the sdist, as an installer would.
dist: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m hatchling build -t sdist -d dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist dist/*.tar.gz
	$(BIN)/python -m twine check --strict dist/*

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The book: build/book/index.html"

clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
