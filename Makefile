# liblowrank: `make` builds the library and the command, `make check` tests them, `make help` lists
# the rest. Honours CC CFLAGS CPPFLAGS LDFLAGS LDLIBS AR INSTALL prefix DESTDIR and the other GNU
# variables; WERROR=1 makes warnings errors, V=1 shows every command.

version := $(shell sed -n 's/^\#define LR_VERSION_M[A-Z]* \([0-9]*\).*/\1/p; s/^\#define LR_VERSION_PATCH \([0-9]*\).*/\1/p' include/lowrank/base.h | paste -sd.)
abi := $(shell sed -n 's/^\#define LR_ABI *\([0-9]*\).*/\1/p' include/lowrank/base.h)

prefix ?= /usr/local
exec_prefix ?= $(prefix)
bindir ?= $(exec_prefix)/bin
libdir ?= $(exec_prefix)/lib
includedir ?= $(prefix)/include
pkgconfigdir ?= $(libdir)/pkgconfig
INSTALL ?= install
INSTALL_PROGRAM ?= $(INSTALL)
INSTALL_DATA ?= $(INSTALL) -m 644

CFLAGS ?= -O2 -g
warnings := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
    -Wno-unknown-warning-option -Wno-format-truncation
ifdef WERROR
warnings += -Werror
endif
required := -std=c11 -D_GNU_SOURCE -Isrc -Iinclude -Ibuild/gen -ffp-contract=off -fPIC \
    -fvisibility=hidden -pthread -MMD -MP $(warnings)
compile = $(CC) $(required) $(CPPFLAGS) $(CFLAGS)
libraries := -lopenblas -ljansson -lpcre2-8 -lutf8proc -lm -pthread
say = $(if $(V),,@echo '  $1 $@';)

B ?= build
library_sources := $(filter-out src/cli/%,$(sort $(wildcard src/*/*.c src/*/*/*.c)))
cli_sources := $(sort $(wildcard src/cli/*.c))
library_objects := $(library_sources:%.c=$(B)/%.o)
cli_objects := $(cli_sources:%.c=$(B)/%.o)
test_sources := $(sort $(wildcard tests/unit/test_*.c))
fuzz_objects := $(patsubst %,$(B)/tests/fuzz/%.o,files use targets)
test_objects := $(test_sources:%.c=$(B)/%.o) $(B)/tests/unit/main.o $(fuzz_objects)

shared := lib/liblowrank.so.$(version)
static := lib/liblowrank.a

# ---- build ----

.PHONY: all
all: $(shared) $(static) $(B)/lowrank

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)$(compile) -c -o $@ $<

# A text file as a string of C.
quoted := sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$$/\\n"/'

$(B)/src/format/modeling.o: build/gen/modeling_lowrank.inc
build/gen/modeling_lowrank.inc: src/format/modeling_lowrank.py
	@mkdir -p $(@D)
	$(call say,GEN)$(quoted) $< > $@

$(B)/src/cli/report_html.o $(B)/tests/unit/test_report_html.o: build/gen/report_css.inc
build/gen/report_css.inc: src/cli/report.css
	@mkdir -p $(@D)
	$(call say,GEN)$(quoted) $< > $@

$(shared): $(library_objects) lib/liblowrank.map
	$(call say,LD)$(CC) -shared -Wl,-soname,liblowrank.so.$(abi) -Wl,-z,defs \
	    -Wl,--version-script=lib/liblowrank.map $(CFLAGS) $(LDFLAGS) -o $@ $(library_objects) \
	    $(LDLIBS) $(libraries)
	@ln -sf liblowrank.so.$(version) lib/liblowrank.so.$(abi)
	@ln -sf liblowrank.so.$(abi) lib/liblowrank.so

$(static): $(library_objects)
	@rm -f $@
	$(call say,AR)$(AR) rcs $@ $^

# The command finds the library beside itself, in the build tree and where it is installed.
link_command = $(CC) $(CFLAGS) $(LDFLAGS) -o $1 $(cli_objects) -Llib -Wl,-rpath,'$$ORIGIN/$2' \
    -llowrank -ljansson -lm $(LDLIBS)
$(B)/lowrank: $(cli_objects) $(shared)
	$(call say,LD)$(call link_command,$@,$(shell realpath -m --relative-to=$(B) lib))

# ---- install ----

.PHONY: install install-strip uninstall
install: all
	$(INSTALL) -d '$(DESTDIR)$(bindir)' '$(DESTDIR)$(libdir)' '$(DESTDIR)$(pkgconfigdir)' \
	    '$(DESTDIR)$(includedir)/lowrank'
	@$(call link_command,$(B)/lowrank-installed,$(shell realpath -m --relative-to=$(bindir) $(libdir)))
	$(INSTALL_PROGRAM) $(B)/lowrank-installed '$(DESTDIR)$(bindir)/lowrank'
	$(INSTALL_PROGRAM) $(shared) '$(DESTDIR)$(libdir)'
	ln -sf liblowrank.so.$(version) '$(DESTDIR)$(libdir)/liblowrank.so.$(abi)'
	ln -sf liblowrank.so.$(abi) '$(DESTDIR)$(libdir)/liblowrank.so'
	$(INSTALL_DATA) $(static) '$(DESTDIR)$(libdir)'
	$(INSTALL_DATA) include/lowrank.h '$(DESTDIR)$(includedir)'
	$(INSTALL_DATA) $(wildcard include/lowrank/*.h) '$(DESTDIR)$(includedir)/lowrank'
	@sed 's|@prefix@|$(prefix)|; s|@libdir@|$(libdir)|; s|@includedir@|$(includedir)|; s|@version@|$(version)|; s|@libraries@|$(libraries)|' \
	    pkgconfig/lowrank.pc.in > $(B)/lowrank.pc
	$(INSTALL_DATA) $(B)/lowrank.pc '$(DESTDIR)$(pkgconfigdir)'

install-strip:
	$(MAKE) install INSTALL_PROGRAM='$(INSTALL_PROGRAM) -s'

uninstall:
	rm -f '$(DESTDIR)$(bindir)/lowrank' '$(DESTDIR)$(includedir)/lowrank.h'
	rm -f $(foreach f,$(notdir $(shared)) liblowrank.so.$(abi) liblowrank.so liblowrank.a,'$(DESTDIR)$(libdir)/$f')
	rm -f '$(DESTDIR)$(pkgconfigdir)/lowrank.pc'
	rm -f $(foreach f,$(wildcard include/lowrank/*.h),'$(DESTDIR)$(includedir)/lowrank/$(notdir $f)')
	-rmdir '$(DESTDIR)$(includedir)/lowrank'

# ---- tests ----

$(B)/tests/unit/suites.inc: $(test_sources)
	@mkdir -p $(@D)
	@for f in $(basename $(notdir $(test_sources))); do echo "SUITE($${f#test_}_suite)"; done > $@
$(B)/tests/unit/main.o: $(B)/tests/unit/suites.inc
$(B)/tests/unit/%.o: required += -Itests/unit -I$(B)/tests/unit -Wno-missing-prototypes

$(B)/tests/unit-tests: $(test_objects) $(library_objects)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(libraries) $(shell pkg-config --libs check)

.PHONY: check unit check-abi check-tree check-install check-full
check: all $(B)/tests/unit-tests check-abi check-tree check-install
	@$(MAKE) --no-print-directory unit damage

# The command with the library's objects in it, for builds whose objects must not reach lib/.
$(B)/tests/lowrank: $(cli_objects) $(library_objects)
	@mkdir -p $(@D)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(libraries)

COMMAND ?= $(if $(filter build,$(B)),$(B)/lowrank,$(B)/tests/lowrank)
unit: $(B)/tests/unit-tests $(COMMAND)
	@CK_TIMEOUT_MULTIPLIER=$${CK_TIMEOUT_MULTIPLIER:-10} LR_GOLDEN=tests/golden \
	    LR_COMMAND='$(COMMAND)' $(B)/tests/unit-tests

check-abi: $(shared)
	tests/abi.sh $(shared)
	CC='$(CC)' CXX='$(CXX)' tests/headers.sh
	tests/layout.sh

check-tree:
	tests/deps.sh

# Damaged files in great number, each opened and used: a status and a sentence, or it was no damage.
damage_objects := $(patsubst %,$(B)/tests/damage/%.o,main mangle life)
$(B)/damage: $(damage_objects) $(library_objects)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(libraries)

DAMAGED ?= 500
.PHONY: damage
damage: $(B)/damage
	@LR_GOLDEN=tests/golden $(B)/damage $(DAMAGED)

# A staged install, the examples built from it by pkg-config and run, and everything taken away again.
stage := $(abspath $(B))/stage
check-install: all
	@rm -rf '$(stage)'
	@$(MAKE) --no-print-directory install DESTDIR='$(stage)' prefix=/opt/lowrank > $(B)/install.log
	CC='$(CC)' tests/examples.sh '$(stage)' /opt/lowrank
	@$(MAKE) --no-print-directory uninstall DESTDIR='$(stage)' prefix=/opt/lowrank >> $(B)/install.log
	@left=$$(find '$(stage)' ! -type d); [ -z "$$left" ] || { echo "uninstall left $$left"; exit 1; }

# Minutes rather than seconds: other compilers, sanitizers, instruction levels, valgrind.
check-full: check
	B='$(B)' tests/full.sh

# ---- fuzzing ----

# [FUZZ_SECONDS=60 of each target] [FUZZ_TARGETS='gguf config']; needs `make deps-dev`.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= safetensors gguf config tokenizer stats plan lowrank
fuzz_flags := -O1 -g -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined \
    -fno-omit-frame-pointer
.PHONY: fuzz
fuzz:
	@$(MAKE) --no-print-directory B='$(B)/fuzz' CC=clang CFLAGS='$(fuzz_flags)' \
	    $(FUZZ_TARGETS:%='$(B)/fuzz/tests/fuzz/%')
	@FUZZ_SECONDS='$(FUZZ_SECONDS)' tests/fuzz/run.sh '$(B)/fuzz' $(FUZZ_TARGETS)
$(FUZZ_TARGETS:%=$(B)/tests/fuzz/%): $(B)/tests/fuzz/%: tests/fuzz/entry.c $(fuzz_objects) \
    $(library_objects)
	$(call say,LD)$(compile) $(LDFLAGS) -fsanitize=fuzzer -DFUZZ_TARGET=fuzz_$* -o $@ $^ $(LDLIBS) \
	    $(libraries)

# ---- care ----

all_sources := $(sort $(wildcard $(foreach d,include include/lowrank src/* src/*/* tests tests/* examples,$d/*.c $d/*.h)))

.PHONY: lint format bench docs deps deps-dev quickstart dist clean help
lint: build/gen/modeling_lowrank.inc build/gen/report_css.inc
	clang-format --dry-run -Werror $(all_sources)
	clang-tidy --quiet $(library_sources) $(cli_sources) -- -std=c11 -D_GNU_SOURCE -Isrc -Iinclude -Ibuild/gen
	cppcheck -q -j2 --std=c11 --error-exitcode=1 \
	    --suppressions-list=tests/cppcheck.txt -Iinclude -Isrc -Ibuild/gen src

format:
	clang-format -i $(all_sources)

# MODEL=model TEXT=file [PEERS=python with torch, transformers and gguf] [PARTS=eval,train]
bench: all $(B)/tests/bench/sgemm $(B)/tests/bench/sampling $(B)/tests/bench/read $(B)/tests/bench/kernel
	tests/bench/bench.py --command $(B)/lowrank --build $(B)/tests/bench --model '$(MODEL)' \
	    --text '$(TEXT)' $(if $(PEERS),--peers '$(PEERS)') $(if $(PARTS),--parts '$(PARTS)')
$(B)/tests/bench/%: tests/bench/%.c $(shared)
	@mkdir -p $(@D)
	$(call say,CC)$(compile) $(LDFLAGS) -o $@ $< -Llib -Wl,-rpath,'$(abspath lib)' -llowrank -lopenblas
$(B)/tests/bench/kernel: tests/bench/kernel.c $(static)
	@mkdir -p $(@D)
	$(call say,CC)$(compile) $(LDFLAGS) -o $@ $< $(static) $(LDLIBS) $(libraries)

docs:
	@mkdir -p build/docs
	doxygen docs/Doxyfile

# What `make`, `make check` and `make quickstart` need, on Debian and its descendants.
packages := gcc g++ libc6-dev make pkg-config libopenblas-pthread-dev libjansson-dev libpcre2-dev \
    libutf8proc-dev libxxhash-dev check python3 python3-pip
# What the other targets need besides: lint, fuzz, docs, check-full.
dev_packages := clang libclang-rt-dev clang-format clang-tidy cppcheck doxygen valgrind
deps-dev: packages += $(dev_packages)
deps deps-dev:
	@missing=; for p in $(packages); do \
	    dpkg-query -W -f='$${db:Status-Status}' $$p 2> /dev/null | grep -qx installed || missing="$$missing $$p"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	root=; [ "$$(id -u)" = 0 ] || root=sudo; echo "installing$$missing"; \
	$$root apt-get update -q && \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing

# [TEXT=file]
quickstart:
	@MAKE='$(MAKE)' examples/quickstart.sh $(TEXT)

dist:
	@mkdir -p $(B)
	git archive --prefix=liblowrank-$(version)/ HEAD | gzip -n9 > $(B)/liblowrank-$(version).tar.gz

clean:
	rm -rf $(B) build lib/liblowrank.so* lib/liblowrank.a

help:
	@echo 'all check check-full check-abi unit damage fuzz lint format bench docs deps deps-dev quickstart'
	@echo 'install install-strip uninstall dist clean'

-include $(library_objects:.o=.d) $(cli_objects:.o=.d) $(test_objects:.o=.d)
