# make select   install and run the main job      make test       everything, as CI does
# make lock     refresh requirements.lock         make test-fast  under three minutes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= examples/cloud-qa.yaml
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: select test test-fast lint docs lock clean

select: $(STAMP)
	$(BIN)/damoc select $(CONFIG)

test: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --durations=15

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" tests/unit tests/oracle

docs: $(STAMP)
	$(BIN)/python -m damoc_pipelines.readme
	$(BIN)/damoc compile

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || (echo "damoc needs Python 3.10 to 3.13; name one with: make PYTHON=python3.11 ..." && false)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[test]'
	rm -f $(VENV)/.installed-*
	touch $@

lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra test --universal --python-version 3.10 --no-annotate --no-header \
	  | grep -v -E '^(nvidia-|triton|cuda-)' > requirements.resolved
	(sed -n '/^#/p' requirements.lock; cat requirements.resolved) > requirements.new
	mv requirements.new requirements.lock && rm -rf requirements.resolved $(VENV)-lock

clean:
	rm -rf $(VENV) .damoc
