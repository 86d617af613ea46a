# make demo: the whole path on the embedded demo. make test: the tests. Each in a virtual environment of its own.
PYTHON ?= python3

.PHONY: demo test clean

demo: .venv-demo/installed
	rm -rf runs/demo
	.venv-demo/bin/python scripts/convert_qwen.py --output runs/demo/model
	.venv-demo/bin/python scripts/train.py --model runs/demo/model --output runs/demo/train --device cpu

test: .venv-test/installed
	JAX_PLATFORMS=cpu .venv-test/bin/python -m pytest

.venv-demo/installed: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --upgrade pip
	.venv-demo/bin/python -m pip install --quiet -e .
	touch $@

.venv-test/installed: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --upgrade pip
	.venv-test/bin/python -m pip install --quiet -e '.[test]'
	touch $@

clean:
	rm -rf .venv-demo .venv-test runs build *.egg-info
