# liblowrank: `make` builds the library and the command, `make check` tests them.
# Honours CC CFLAGS CPPFLAGS LDFLAGS LDLIBS AR INSTALL prefix DESTDIR and the other GNU variables.

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
warnings := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-format-truncation
ifdef WERROR
warnings += -Werror
endif
required := -std=c11 -D_GNU_SOURCE -Isrc -Iinclude -Ibuild/gen -ffp-contract=off -fPIC \
    -fvisibility=hidden -pthread -MMD -MP $(warnings)
compile = $(CC) $(required) $(CPPFLAGS) $(CFLAGS)
libraries := -lopenblas -ljansson -lpcre2-8 -lutf8proc -lm -pthread

B ?= build
library_sources := $(filter-out src/cli/%,$(sort $(wildcard src/*/*.c src/*/*/*.c)))
cli_sources := $(sort $(wildcard src/cli/*.c))
library_objects := $(library_sources:%.c=$(B)/%.o)
cli_objects := $(cli_sources:%.c=$(B)/%.o)
test_sources := $(sort $(wildcard tests/unit/test_*.c))
test_objects := $(test_sources:%.c=$(B)/%.o) $(B)/tests/unit/main.o

shared := lib/liblowrank.so.$(version)
static := lib/liblowrank.a

.PHONY: all
all: $(shared) $(static) $(B)/lowrank

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(compile) -c -o $@ $<

$(B)/src/format/modeling.o: build/gen/modeling_lowrank.inc
build/gen/modeling_lowrank.inc: src/format/modeling_lowrank.py
	@mkdir -p $(@D)
	sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$$/\\n"/' $< > $@

$(shared): $(library_objects) lib/liblowrank.map
	$(CC) -shared -Wl,-soname,liblowrank.so.$(abi) -Wl,--version-script=lib/liblowrank.map \
	    -Wl,-z,defs $(CFLAGS) $(LDFLAGS) -o $@ $(library_objects) $(LDLIBS) $(libraries)
	ln -sf liblowrank.so.$(version) lib/liblowrank.so.$(abi)
	ln -sf liblowrank.so.$(abi) lib/liblowrank.so

$(static): $(library_objects)
	rm -f $@
	$(AR) rcs $@ $^

$(B)/lowrank: $(cli_objects) $(shared)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(cli_objects) -Llib -Wl,-rpath,'$$ORIGIN/../lib' -llowrank \
	    -ljansson -lm $(LDLIBS)

# ---- tests ----

$(B)/tests/unit/suites.inc: $(test_sources)
	@mkdir -p $(@D)
	for f in $(basename $(notdir $(test_sources))); do echo "SUITE($${f#test_}_suite)"; done > $@
$(B)/tests/unit/main.o: $(B)/tests/unit/suites.inc
$(B)/tests/unit/%.o: required += -Itests/unit -I$(B)/tests/unit -Wno-missing-prototypes

$(B)/tests/unit-tests: $(test_objects) $(library_objects)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(libraries) $(shell pkg-config --libs check)

.PHONY: check unit
unit: $(B)/tests/unit-tests
	LR_GOLDEN=tests/golden $(B)/tests/unit-tests

check: all unit

.PHONY: clean
clean:
	rm -rf $(B) build lib/liblowrank.so* lib/liblowrank.a

-include $(library_objects:.o=.d) $(cli_objects:.o=.d) $(test_objects:.o=.d)
