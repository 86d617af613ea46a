# make demo: the whole path on the embedded demo. make test: the tests, with PyTorch for the oracle. make test-newest: the
# tests with the newest packages on a newer Python, without the oracle. make test-all: both, compiled as for a user (the others
# compile quickly), more random inputs, more kills.
# make check-cuda: compiles for GPUs that need not be there, and looks at the programs; 6 GB of CUDA wheels on Python 3.12 or
# newer. make check-cuda-all: at the dimensions of 7B too.
# Each environment is made once, in a folder of its own.
PYTHON ?= python3
TESTS ?= tests
NEWER_PYTHON ?= $(shell for python in python3.13 python3.12 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[32].*/bin/python; do \
	"$$python" -c '' 2>/dev/null && echo "$$python" && break; done)

.PHONY: demo test test-newest test-all check-cuda check-cuda-all environments clean

demo: .venv-demo/installed
	rm -rf runs/demo
	.venv-demo/bin/python scripts/convert_qwen.py --output runs/demo/model
	.venv-demo/bin/python scripts/train.py --model runs/demo/model --output runs/demo/train --device cpu

test: .venv-test/installed
	JAX_PLATFORMS=cpu .venv-test/bin/python -m pytest $(TESTS)

test-newest: $(if $(NEWER_PYTHON),.venv-newest/installed)
ifeq ($(NEWER_PYTHON),)
	@echo "there is no Python 3.12 or 3.13: the tests with the newest packages are left out"
else
	.venv-newest/bin/python -m pip list | grep -iE '^(jax|jaxlib|flax|optax|orbax-checkpoint) '
	JAX_PLATFORMS=cpu .venv-newest/bin/python -m pytest $(TESTS)
endif

check-cuda: $(if $(NEWER_PYTHON),.venv-cuda/installed)
ifeq ($(NEWER_PYTHON),)
	@echo "there is no Python 3.12 or 3.13, which JAX's CUDA wheels need: the programs for a GPU are not checked"
else
	JAX_PLATFORMS=cpu JAX_ENABLE_COMPILATION_CACHE=false XLA_FLAGS=--xla_gpu_autotune_level=0 \
		.venv-cuda/bin/python -m pytest tests/cuda -rP --dist loadgroup
endif

check-cuda-all: export CHECK_CUDA = all
check-cuda-all: check-cuda

environments: .venv-test/installed $(if $(NEWER_PYTHON),.venv-newest/installed)

test-all: export HYPOTHESIS_PROFILE = thorough
test-all: export XLA_FLAGS =
test-all: test test-newest
	.venv-test/bin/python scripts/kill_runs.py

.venv-demo/installed: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet -e .
	touch $@

.venv-test/installed: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet -e '.[test,oracle]'
	touch $@

.venv-newest/installed: pyproject.toml
	$(NEWER_PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[test]'
	touch $@

.venv-cuda/installed: pyproject.toml
	$(NEWER_PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[cuda12,test]'
	touch $@

clean:
	rm -rf .venv-demo .venv-test .venv-newest .venv-cuda runs build *.egg-info
