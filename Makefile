# fcn-convert from a fresh clone: `make convert` installs into .venv and converts the samples.
#
#   make convert [CHECKPOINTS=folder] [OUT=folder] [ARGS="--verify bytes"] [PYTHON=python]
#   make test · make test-all · make check · make bench · make survey · make samples
#   make pictures · make fuzz [FUZZ_SECONDS=60] · make clean
#
# Paths must not contain blanks: make splits its lists there.

CHECKPOINTS ?= sample_checkpoints
OUT ?= $(CHECKPOINTS)
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --output-sync=target --no-builtin-rules
.SUFFIXES:

VENV := .venv
# PYTHON=… reuses an interpreter that has torch and the other dependencies; nothing is installed.
ifdef PYTHON
RUN := PYTHONPATH=$(CURDIR) $(PYTHON)
INSTALLED :=
INSTALLED_DEV :=
INSTALLED_HEAVY :=
INSTALLED_FUZZ :=
else
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_HEAVY := $(VENV)/.installed-heavy
INSTALLED_FUZZ := $(VENV)/.installed-fuzz
endif

.PHONY: help
help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

# As pip does with what it copies: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every
# command would compile the package anew, a third of its start.
COMPILED = @$(RUN) -m compileall -q fcn_convert

# Both need the same .venv, which two pips must not fill at once.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(info installing into $(VENV), which takes some minutes where torch has to be fetched)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(COMPILED)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Inputs: every checkpoint in the folder by a usual suffix; outputs are never taken for inputs.
SUFFIXES_READ := pt pth pt2 pkl pickle bin ckpt tar safetensors npz npy h5 hdf5 keras pdparams
SOURCES := $(filter-out %.fcn.safetensors,$(foreach suffix,$(SUFFIXES_READ),$(wildcard $(CHECKPOINTS)/*.$(suffix))))
output_of = $(OUT)/$(basename $(notdir $(1))).fcn.safetensors
OUTPUTS := $(foreach source,$(SOURCES),$(call output_of,$(source)))

ifneq ($(filter convert,$(MAKECMDGOALS)),)
ifeq ($(SOURCES),)
$(error no checkpoint in $(CHECKPOINTS): looked for *.$(subst $() , *.,$(SUFFIXES_READ)))
endif
ifneq ($(words $(OUTPUTS)),$(words $(sort $(OUTPUTS))))
$(error two checkpoints would give one output: $(foreach output,$(sort $(OUTPUTS)),$(if $(word 2,$(filter $(output),$(OUTPUTS))),$(output))))
endif
endif

.PHONY: convert
convert: $(OUTPUTS)
# What is printed goes through make, so the commands do not see how wide the terminal is.
convert: export COLUMNS := $(if $(MAKE_TERMOUT),$(shell stty size </dev/tty 2>/dev/null | cut -d' ' -f2))

# Make decides what is out of date, so an output that is may be replaced.
define conversion
$(call output_of,$(1)): $(1) $(wildcard $(basename $(1)).yaml) | $(INSTALLED) $(OUT)
	@$(RUN) -m fcn_convert convert $(1) -o $$@ --force $(ARGS)
endef
$(foreach source,$(SOURCES),$(eval $(call conversion,$(source))))

$(sort $(OUT)):
	mkdir -p $@

$(VENV)/.installed-heavy: $(VENV)/.installed-dev
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,dev-heavy]'
	@touch $@

.PHONY: test
test: $(INSTALLED_DEV)
	$(RUN) -m pytest -n auto -m "not heavy"

.PHONY: test-all
test-all: test $(INSTALLED_HEAVY)
	$(RUN) -m pytest -n auto -m heavy

.PHONY: check
check: $(INSTALLED_DEV)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

.PHONY: samples
samples: $(INSTALLED_DEV)
	$(RUN) sample_checkpoints/train.py

.PHONY: pictures
pictures: $(INSTALLED_DEV)
	$(RUN) sample_checkpoints/pictures.py

.PHONY: bench
bench: $(INSTALLED_DEV)
	$(COMPILED)
	$(RUN) tests/benchmarks/bench.py

.PHONY: survey
survey: $(INSTALLED_DEV)
	PYTHONPATH=$(CURDIR) $(RUN) tests/benchmarks/survey.py

$(VENV)/.installed-fuzz: $(VENV)/.installed-dev
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,fuzz]'
	@touch $@

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: $(INSTALLED_FUZZ)
	for target in header pickle zip legacy arrays index spec; do \
	  $(RUN) tests/fuzz/fuzz.py $$target -max_total_time=$(FUZZ_SECONDS) || exit; done

.PHONY: clean
clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f sample_checkpoints/*.fcn.safetensors sample_checkpoints/*.fcn.report.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
