# Tollgate's commands. They need Python 3.11 or newer and nothing else; `make` alone lists them.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A Python to prefer, e.g. `make install PYTHON=/opt/python3.12/bin/python3`.
PYTHON ?=
PYTEST_ARGS ?= -q -n logical --maxprocesses 4
UP_ARGS ?=
BENCH_ARGS ?=
PACKAGES := gateway clusters billing routing
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url

.PHONY: help install run test check format bench lock

help: ## List these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

install: $(INSTALLED) ## Make .venv and install everything into it

run: $(INSTALLED) ## Start everything: web, worker, beat, Valkey and the demo fleet
	@exec env GATEWAY_DEMO=$${GATEWAY_DEMO:-1} $(BIN)/python manage.py up $(UP_ARGS)

test: $(INSTALLED) ## Run the tests on SQLite, then on PostgreSQL
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	$(BIN)/python tests/with_postgres.py $(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(INSTALLED) ## Lint, types, import contracts, templates, Dockerfile, deployment settings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports --no-logo --no-cache
	@if find templates $(PACKAGES) -name '*.html' | grep -q .; then \
	  echo "djlint, djade" && \
	  find templates $(PACKAGES) -name '*.html' -exec $(BIN)/djlint --quiet --lint {} + && \
	  find templates $(PACKAGES) -name '*.html' -exec $(BIN)/djade --check --target-version 5.2 {} +; \
	fi
	$(BIN)/hadolint deploy/Dockerfile
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && \
	export GATEWAY_DATA_DIR="$$data" GATEWAY_HTTPS=1 DEBUG=0 ALLOWED_HOSTS=gateway.example.com \
	  CSRF_TRUSTED_ORIGINS=https://gateway.example.com LOG_LEVEL=WARNING && \
	echo "manage.py check --deploy, makemigrations --check" && \
	$(BIN)/python manage.py check --deploy --fail-level WARNING && \
	$(BIN)/python manage.py makemigrations --check --dry-run

format: $(INSTALLED) ## Put the code and the templates into their form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@if find templates $(PACKAGES) -name '*.html' | grep -q .; then \
	  find templates $(PACKAGES) -name '*.html' -exec $(BIN)/djade --target-version 5.2 {} +; \
	fi

bench: $(INSTALLED) ## Measure the gateway on this machine
	@$(BIN)/python manage.py bench $(BENCH_ARGS)

lock: $(INSTALLED) ## Write requirements*.txt, each pin with its hashes, from requirements*.in
	$(LOCK) requirements.in -o requirements.txt
	$(LOCK) -c requirements.txt requirements-dev.in -o requirements-dev.txt

# Made again when the pins change. A .venv whose Python is gone or too old is laid anew.
$(INSTALLED): requirements.txt requirements-dev.txt
	@is_new_enough='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "$$is_new_enough" >/dev/null 2>&1; then \
	  found=; \
	  for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	    if "$$candidate" -c "$$is_new_enough" >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Tollgate needs Python 3.11 or newer with its venv module, and found none." >&2; \
	    echo "Install it (Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo "Installing the pinned packages (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $(INSTALLED)
