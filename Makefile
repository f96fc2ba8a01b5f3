# One command each; the first sets the machine up (scripts/setup).
#
#   make demo          build and run the examples
#   make demo-exported a model exported by Python, fine-tuned in C++
#   make test          build everything and run all tests
#   make test-asan     the same under AddressSanitizer and UBSan
#   make test-tsan     the tests of many threads under ThreadSanitizer
#   make bench         times beside Python PEFT, as ratios
#   make install       build and install library and program to PREFIX
#   make format        format the code; make check-format only looks
#   make clean         remove what was built (.venv stays)

jobs := $(shell nproc 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(jobs)
export CTEST_PARALLEL_LEVEL ?= $(jobs)

setup := .venv/.ready
folders := $(wildcard include src cli examples benchmarks tests)
code = $(shell find $(folders) -name '*.h' -o -name '*.cpp')

PREFIX ?= /usr/local

.PHONY: test demo demo-exported bench install format check-format clean setup
.PRECIOUS: build/%/build.ninja

test: test-dev

setup: $(setup)

$(setup): scripts/setup $(wildcard requirements/*.txt)
	scripts/setup

build/%/build.ninja: CMakePresets.json | $(setup)
	cmake --preset $*

demo demo-exported: build/dev/build.ninja
	cmake --build --preset dev --target $@

bench: build/dev/build.ninja
	cmake --build --preset dev --target bench

install: build/release/build.ninja
	cmake --build --preset release
	cmake --install build/release --prefix "$(PREFIX)"

test-%: build/%/build.ninja
	cmake --build --preset $*
	ctest --preset $*

format: $(setup)
	.venv/bin/clang-format -i $(code)

check-format: $(setup)
	.venv/bin/clang-format --dry-run --Werror $(code)

clean:
	rm -rf build
