# Thin: each target is a line or two; the work is in `python -m digitlib`.
# Needs Python 3.11 to 3.13, git and make; installs into .venv and nowhere else.

PROFILE ?= quick
DATASET ?=
ARGS ?=
PY := .venv/bin/python
FOUND = for p in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
	"$$p" -c 'import sys, venv, ensurepip; assert (3, 11) <= sys.version_info < (3, 14)' \
	2>/dev/null && { echo "$$p"; break; }; done

# A folder that was moved or copied has a .venv that points to the old place: make it anew.
MOVED := $(shell test "$$(cat .venv/.installed 2>/dev/null)" = "$(CURDIR)" || rm -f .venv/.installed)

.DEFAULT_GOAL := help
.PHONY: help report test lab notebooks lock lint clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  PYTHON=python3.12 chooses the Python that .venv is made with'

report: .venv/.installed ## Run the notebooks into reports/ (PROFILE=quick DATASET=digits ARGS='-p N_PATCHES 10')
	@$(PY) -m digitlib report $(PROFILE) $(if $(DATASET),--dataset "$(DATASET)") $(ARGS)

test: .venv/.installed ## Run the unit tests, then all notebooks with nbval (ARGS='-k strips')
	$(PY) -m pytest $(or $(ARGS),-n 2 --dist loadfile tests)
	@# Without bars: nbval reads messages after a cell, and of thousands the last would be lost.
	TQDM_DISABLE=1 $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 \
		--nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

lab: .venv/.installed ## Open JupyterLab
	$(PY) -m jupyterlab --notebook-dir=. $(ARGS)

notebooks: .venv/.installed ## Run the notebooks in place, with their outputs as they are committed
	TQDM_DISABLE=1 $(PY) -m jupyter nbconvert --to notebook --execute --inplace --log-level=WARN \
		--ExecutePreprocessor.timeout=-1 --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.extra_arguments=--IPKernelApp.capture_fd_output=False \
		notebooks/*.ipynb

lint: .venv/.installed ## Check and format with ruff
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

# No hashes: pip takes them for all packages or for none, and then refuses the gpu and jax extras.
lock: .venv/.installed ## Resolve pyproject.toml anew into requirements.lock, for all systems
	@$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--no-emit-index-url --no-annotate --custom-compile-command 'make lock' --quiet -o requirements.lock

clean: ## Remove .venv and caches; data/ and reports/ stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find digitlib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.venv/.installed: requirements.lock pyproject.toml
	@python=$$($(FOUND)); test -n "$$python" || { echo 'make: no working Python 3.11, 3.12 or 3.13 with' \
		'venv and pip was found; install one (Debian, Ubuntu: apt install python3-venv),' \
		'or name it: make PYTHON=/path/to/python3.12 …' >&2; exit 1; }; \
	echo "Installing into .venv with $$("$$python" -V), once; about 1.5 GB, a minute or more …"; \
	test "$$(cat .venv/.python 2>/dev/null)" = "$(CURDIR)" || "$$python" -m venv --clear .venv
	@echo "$(CURDIR)" > .venv/.python
	@{ $(PY) -m pip install --disable-pip-version-check -r requirements.lock || echo FAILED; } | awk \
		'/^(Collecting|Processing) / && ++n % 25 == 0 {print "  " n " packages …"; fflush()} \
		/^Installing/ {print "  unpacking " NF - 3 " packages …"; fflush()} \
		/^(ERROR|FAILED)/ {failed = 1} END {exit failed}' \
		|| { echo 'make: pip could not install (see above); the same command tries again' >&2; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@echo "$(CURDIR)" > $@
