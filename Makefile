# Every target makes .venv from the exact versions in requirements/ when it is missing or stale, and is quick when it is there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# With glibc's allocator training gets slower and slower (docs/lab/nano.md); tcmalloc is taken where it is installed
TCMALLOC := $(addprefix LD_PRELOAD=,$(firstword $(wildcard /usr/lib/*/libtcmalloc_minimal.so.4 /usr/lib*/libtcmalloc_minimal.so.4)))

SHARED ?= ../shared

.PHONY: help demo test kills locked check figures figures-nano figures-photographs figures-evidence figures-engines figures-training figures-roam nano

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY)  ## teach nano a part it never saw, show before and after on a page; with IMAGES=dir inspect your own, too
	$(BIN)/anomalyr1 demo $(if $(IMAGES),"$(IMAGES)")

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(ARGS)

kills: $(READY)  ## kill training 20 times at random moments: it ends with the same bits (a few minutes)
	ANOMALYR1_KILLS=20 $(BIN)/python -m pytest -q -s tests/training/test_run.py -k killed

locked:  ## write requirements/locked.txt anew: the digest of every file that `make` may install (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make locked" requirements/dev.txt -o requirements/locked.txt

check: $(READY)  ## ruff, mypy --strict, structure test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_structure.py

figures: $(READY)  ## print the first table of docs/measured.md; figures-nano, -photographs, -evidence, -engines, -training and -roam the others
	$(BIN)/python benchmarks/coordinates.py
	$(BIN)/python benchmarks/parser_scaling.py
	$(BIN)/python benchmarks/masks.py --shared $(SHARED)
	$(BIN)/python benchmarks/leaks.py --shared $(SHARED)

figures-nano: $(READY)
	$(BIN)/python benchmarks/nano_exam.py
	$(BIN)/python benchmarks/nano_speed.py

figures-photographs: $(READY)
	$(BIN)/python benchmarks/zero_shot.py --shared $(SHARED) --count 80
	$(BIN)/python benchmarks/few_shot_elpv.py
	$(BIN)/python benchmarks/inspect_scores.py --shared $(SHARED)

figures-evidence: $(READY)
	$(BIN)/python benchmarks/evidence.py --shared $(SHARED)

figures-engines: $(READY)
	$(BIN)/python benchmarks/inspect_throughput.py --images 8 --threads 1
	$(BIN)/python benchmarks/inspect_overhead.py
	$(BIN)/python benchmarks/inspect_memory.py
	$(BIN)/python benchmarks/evaluate_speed.py
	$(BIN)/python benchmarks/image_door.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/busy.py

figures-training: $(READY)
	$(BIN)/python benchmarks/grpo_step.py
	$(BIN)/python benchmarks/nano_forward.py
	$(BIN)/python benchmarks/nano_grpo.py --out runs/nano-grpo-figures

figures-roam: $(READY)
	$(BIN)/anomalyr1 reproduce roam --limit 144

nano: $(READY)  ## train the bundled policies again from scratch (97 minutes on 2 cores, then a long exam and nano-raw; goes on from its last checkpoint)
	$(TCMALLOC) $(BIN)/python -m anomalyr1.nano.make --out runs/nano --resume
	$(TCMALLOC) $(BIN)/python -m anomalyr1.nano.make --out runs/nano --resume --raw

$(READY): $(wildcard requirements/*.txt) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or say where it is with make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: Python 3.11 or newer is needed (make PYTHON=...)"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements/locked.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	@touch $(READY)
