# Every habit of this project, one target each; `make` alone lists them.
PYTHON ?= python3
BASE := .venv
TEST := .venv-test
DEMO := .demo
NEEDED_BY_TESTS := bubblewrap chromium fonts-noto-core fonts-noto-color-emoji \
	libreoffice-writer libreoffice-calc libreoffice-impress strace
# The demo's answers must not depend on what a person has set for their own folders.
PAGEGLASS := env -u PAGEGLASS_CONFIG $(BASE)/bin/pageglass --data-dir $(DEMO)

.DEFAULT_GOAL := help
.PHONY: help demo serve-demo test system lint types imports bench eval crash isolation folder scale load check-size clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# pip's own cache makes the second environment quick; exact versions come from constraints.txt.
$(BASE)/.ready: pyproject.toml constraints.txt
	@echo "Installing Pageglass into $(BASE) (about a minute, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Pageglass needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv --clear $(BASE)
	@$(BASE)/bin/pip install --quiet --no-compile --disable-pip-version-check -e . -c constraints.txt
	@touch $@

$(TEST)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(TEST)
	$(TEST)/bin/pip install --quiet --disable-pip-version-check -e '.[dev,models,observability,mcp,evals]' -c constraints.txt
	@touch $@

demo: $(BASE)/.ready ## Index the sample collection and ask three questions of it
	@$(PAGEGLASS) ingest samples/docs
	@while IFS= read -r question; do \
		printf '\n> %s\n\n' "$$question"; \
		$(PAGEGLASS) ask "$$question" --save-pages $(DEMO)/cited || exit 1; \
	done < samples/demo-questions.txt
	@printf '\nThe cited pages, with the quoted words marked, are in %s/cited.\n' $(DEMO)
	@printf 'Start the server:  %s/bin/pageglass --data-dir %s serve\n' $(BASE) $(DEMO)

serve-demo: $(BASE)/.ready ## Serve the sample collection
	$(PAGEGLASS) serve

test: $(TEST)/.ready ## Run the whole test suite in an environment of its own, a process a core
	$(TEST)/bin/python -m pytest --numprocesses auto --dist loadfile

system: ## Install what some tests need beside Python and skip without (Debian, as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(NEEDED_BY_TESTS)

lint: $(TEST)/.ready ## Check style and formatting
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .

types: $(TEST)/.ready ## Check types, strictly
	$(TEST)/bin/pyright --pythonpath $(TEST)/bin/python

imports: $(TEST)/.ready ## Check that data flows one way
	$(TEST)/bin/lint-imports

check-size: $(BASE)/.ready ## Check that the base install stays small and free of torch
	@$(BASE)/bin/python -m evals.install_size

bench: $(TEST)/.ready ## Print speed, latency and memory as JSON
	@$(TEST)/bin/python -m evals.bench

eval: $(TEST)/.ready ## Measure page recall on the sample questions
	@$(TEST)/bin/python -m evals.page_recall --cases samples/questions.jsonl --docs samples/docs --answers

crash: $(TEST)/.ready ## Kill indexing a hundred times, fill the disk, and compare with an undisturbed run
	@$(TEST)/bin/python -m evals.crash

isolation: $(TEST)/.ready ## Print what it costs to open files in a process of their own
	@$(TEST)/bin/python -m evals.isolation

folder: $(TEST)/.ready ## Print figures of watched folders and workers as JSON
	@$(TEST)/bin/python -m evals.folder

load: $(TEST)/.ready ## Let fifty people ask for a minute, then bad clients; print figures as JSON
	@$(TEST)/bin/python -m evals.load

scale: $(TEST)/.ready ## Grow a data folder to 100,000 made-up pages and print a table
	@$(TEST)/bin/python -m evals.scale

clean: ## Remove environments, indexes and caches
	rm -rf $(BASE) $(TEST) $(DEMO) .evals .pytest_cache .ruff_cache .hypothesis .import_linter_cache
