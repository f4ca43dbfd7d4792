# Every target makes .venv from the exact versions in requirements/ when it is missing or stale, and is quick when it is there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# With glibc's allocator training gets slower and slower (docs/nano.md); tcmalloc is taken where it is installed
TCMALLOC := $(addprefix LD_PRELOAD=,$(firstword $(wildcard /usr/lib/*/libtcmalloc_minimal.so.4 /usr/lib*/libtcmalloc_minimal.so.4)))

.PHONY: help demo test check figures nano

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY)  ## teach nano a part it never saw, show before and after on a page; with IMAGES=dir inspect your own, too
	$(BIN)/anomalyr1 demo $(if $(IMAGES),"$(IMAGES)")

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -q $(ARGS)

check: $(READY)  ## ruff, mypy --strict, structure test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_structure.py

figures: $(READY)  ## print the figures that README and docs cite
	$(BIN)/python benchmarks/coordinates.py
	$(BIN)/python benchmarks/parser_scaling.py
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/leaks.py

nano: $(READY)  ## train the bundled policies again from scratch (97 minutes on 2 cores, then a long exam and nano-raw; goes on from its last checkpoint)
	$(TCMALLOC) $(BIN)/python -m anomalyr1.nano.make --out runs/nano --resume
	$(TCMALLOC) $(BIN)/python -m anomalyr1.nano.make --out runs/nano --resume --raw

$(READY): $(wildcard requirements/*.txt) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or say where it is with make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: Python 3.11 or newer is needed (make PYTHON=...)"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements/dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	@touch $(READY)
