# icptoken: build, installation, tests. `make help` lists the targets.
# GNU make (gmake on FreeBSD). Every variable set with ?= can be given on the command line.

ifeq ($(origin LUA), undefined)
LUA := $(shell ! command -v lua5.4 >/dev/null && command -v lua >/dev/null && echo lua || echo lua5.4)
endif
RUNTIME := $(notdir $(LUA))
VERSION := $(shell $(LUA) -e 'print(_VERSION:sub(5), jit and "jit" or "")' 2>/dev/null)
ABI := $(word 1,$(VERSION))
LUA_PACKAGES := $(if $(word 2,$(VERSION)),luajit,lua$(ABI) lua-$(ABI) lua$(subst .,,$(ABI)) lua)

CC ?= cc
CFLAGS ?= $(if $(SANITIZE),-O1 -g,-O2)
PREFIX ?= /usr/local
INST_LIBDIR ?= $(PREFIX)/lib/lua/$(ABI)
INST_LUADIR ?= $(PREFIX)/share/lua/$(ABI)
LUA_CFLAGS ?= $(shell for name in $(LUA_PACKAGES); do pkg-config --cflags $$name 2>/dev/null && break; done)
CURL_CFLAGS ?= $(shell pkg-config --cflags libcurl 2>/dev/null)
CURL_LIBS ?= $(shell pkg-config --libs libcurl 2>/dev/null || echo -lcurl)
FUZZ_SECONDS ?= 60

LUA_CFLAGS := $(LUA_CFLAGS)
CURL_CFLAGS := $(CURL_CFLAGS)
CURL_LIBS := $(CURL_LIBS)

# The module needs these flags, whatever CFLAGS contains. SANITIZE=1 builds for AddressSanitizer and UBSan.
ifdef SANITIZE
BUILD := build/$(RUNTIME)-asan
CHECKS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else
BUILD := build/$(RUNTIME)
CHECKS := $(if $(filter -O1 -O2 -O3 -Os,$(CFLAGS)),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif
# _FILE_OFFSET_BITS and _TIME_BITS make off_t and time_t 64 bits wide on 32-bit machines, where the C library supports
# that. The module shares neither type with libcurl or Lua.
MODULE_CFLAGS = -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 -fPIC -fvisibility=hidden -fstack-protector-strong -Wall -Wextra \
  $(CHECKS) $(LUA_CFLAGS) $(CURL_CFLAGS) -MMD -MP
ifeq ($(shell uname -s), Darwin)
MODULE_LDFLAGS = -bundle -undefined dynamic_lookup $(CHECKS)
else
MODULE_LDFLAGS = -shared -Wl,-z,relro -Wl,-z,now $(CHECKS)
endif

SOURCES := lua_icptoken.c $(sort $(wildcard src/*.c))
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o)
MODULE := $(BUILD)/icptoken.so
LUA_FILES := $(patsubst lua/%,%,$(wildcard lua/icptoken/*.lua lua/icptoken/*/*.lua lua/icptoken/*/*/*.lua))
COMMAND_FILES := $(filter icptoken/cli.lua icptoken/cli/% icptoken/command/%,$(LUA_FILES))
MODULE_FILES := $(filter-out $(COMMAND_FILES),$(LUA_FILES))
PROGRAMS := icptoken docker-credential-icptoken
SHARE_FILES := $(patsubst share/%,%,$(wildcard share/*/*/*))
RUN = LUA_PATH='lua/?.lua;;' LUA_CPATH='$(BUILD)/?.so;;'

all: $(MODULE) ## build the module for $(LUA) in build/

$(MODULE): $(OBJECTS)
	$(CC) $(MODULE_LDFLAGS) $(LDFLAGS) -o $@ $^ $(CURL_LIBS)

$(BUILD)/testkit.so: $(BUILD)/spec/support/testkit.o
	$(CC) $(MODULE_LDFLAGS) $(LDFLAGS) -o $@ $^ $(CURL_LIBS) -ldl

PRELOADS := build/slow_resolver.so build/quick_resolver.so build/clock_shift.so build/moved_store.so

$(PRELOADS): build/%.so: spec/support/%.c
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE -fPIC -shared -Wall -Wextra $(CFLAGS) -o $@ $< -ldl -lpthread

$(BUILD)/%.o: %.c Makefile
	@[ -n '$(VERSION)' ] || { echo '$(LUA) cannot be run: install it, or choose another runtime with LUA=' >&2; exit 1; }
	@mkdir -p $(@D)
	$(CC) $(MODULE_CFLAGS) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

-include $(OBJECTS:.o=.d) $(BUILD)/spec/support/testkit.d

# The RSA key of the fake ICPs of the specs; making one is most of a start.
build/token_key.pem:
	@mkdir -p $(@D)
	@umask 077 && openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out $@.$$$$ && mv $@.$$$$ $@

for-specs: $(MODULE) $(BUILD)/testkit.so $(PRELOADS) build/token_key.pem

setup: ## install what the build, the demo and the tests need (Debian and derivatives)
	@scripts/setup test

demo: ## get a token from the fake ICP, starting from nothing
	@scripts/setup demo
	@echo 'building icptoken'
	@$(MAKE) --no-print-directory -s run-demo

run-demo: all
	@$(RUN) $(LUA) examples/demo.lua

demo-gateway: ## push and pull an image through nginx with the gateway, with a real registry
	@scripts/setup demo-gateway
	@echo 'building icptoken'
	@$(MAKE) --no-print-directory -s LUA=luajit run-demo-gateway

run-demo-gateway: all
	@$(RUN) luajit examples/nginx/demo.lua

demo-fleet: ## three gateways that share tokens through Redis: how many token requests that saves, and what happens if one dies
	@scripts/setup demo-fleet
	@echo 'building icptoken'
	@$(MAKE) --no-print-directory -s LUA=luajit run-demo-fleet

run-demo-fleet: all
	@$(RUN) luajit examples/nginx/fleet.lua

stub: ## run the fake ICP over HTTPS until Ctrl-C; STUB="--dir DIR --port N" keeps its files in DIR
	@scripts/setup demo
	@luajit stub/icp.lua $(STUB)

test: ## what a change must pass: the specs on all runtimes, the gateway's specs, lint
	@scripts/setup test
	@scripts/test

test-deep: ## the slow checks: sanitizers, valgrind, fuzzing, the rock, other architectures
	@scripts/setup test-deep
	@scripts/test-deep

test-on: ## the demos and make test in a clean root: RELEASE=bookworm|trixie|forky|sid; or specs with ARCH=s390x|i386|...
	@scripts/setup $(if $(ARCH),test-arch '$(ARCH)',test-on)
	@$(if $(ARCH),scripts/test-arch '$(ARCH)',scripts/test-on '$(RELEASE)')

spec: ## the specs on $(LUA) alone; SPEC=file for one of them
	@scripts/specs plain $(LUA) $(SPEC)

asan: ## the specs under AddressSanitizer and UBSan, on Lua 5.4 and LuaJIT
	@scripts/specs asan lua5.4 $(SPEC)
	@scripts/specs asan luajit $(SPEC)

valgrind: ## the specs under valgrind: all on Lua 5.4, a short list on LuaJIT
	@scripts/specs valgrind lua5.4 $(SPEC)
	@scripts/specs valgrind luajit $(or $(SPEC),--tags=short)

valgrind-gateway: ## a short load on nginx with the gateway, under valgrind
	@scripts/setup test
	@scripts/valgrind-gateway

fuzz: ## fuzz each parser for FUZZ_SECONDS
	@scripts/fuzz $(FUZZ_SECONDS)

lint: ## compilers, clang-tidy, cppcheck, clang-format, luacheck, shellcheck, luarocks lint
	@scripts/lint

format: ## format the C sources
	@clang-format -i $$(scripts/list-c --headers)

picture: ## draw docs/architecture.svg from docs/architecture.txt, and docs/check.svg from what the command prints
	@mkdir -p build
	@scripts/draw-architecture >build/architecture.svg && mv build/architecture.svg docs/
	@runtime=$$(scripts/command-lua '$(LUA)') && $(MAKE) --no-print-directory -s LUA="$$runtime" all \
	  && scripts/draw-check "$$(basename "$$runtime")" >build/check.svg && mv build/check.svg docs/

pictures: ## draw docs/pictures/*.svg from the measurements in docs/pictures/*.txt
	@scripts/draw-pictures

bench: ## compare with the lower limits that libcurl and nginx set, in less than 5 minutes; print a table of aims
	@scripts/setup bench
	@bench/suite short

bench-all: ## the same on every runtime, and with all other Lua clients, cold fetches, and how the cost grows
	@scripts/setup bench
	@bench/suite all

bench-gateway: ## compare the gateway with plain nginx, and count cold fetches per second
	@scripts/setup bench
	@bench/gateway/run

bench-attacks: ## measure what other users notice of attacks and overload at the gateway
	@scripts/setup bench
	@$(MAKE) --no-print-directory --silent for-specs LUA=luajit
	@luajit bench/gateway/attacks.lua

bench-fleet: ## measure what a fleet of gateways costs and saves, with a real Redis
	@scripts/setup bench
	@$(MAKE) --no-print-directory --silent for-specs LUA=luajit
	@luajit bench/gateway/fleet.lua

bench-command: ## measure what a start of the programs costs, beside the interpreter alone and another credential helper
	@scripts/setup bench
	@bench/command

bench-pictures: ## measure what docs/pictures shows, and draw it
	@scripts/setup bench
	@$(MAKE) --no-print-directory --silent for-specs LUA=luajit
	@luajit bench/pictures.lua
	@scripts/draw-pictures

bench-guard: ## count the instructions of the calls that must stay cheap, and compare them with bench/budgets
	@scripts/setup test-deep
	@bench/guard

install: install-module ## install the module, the gateway and the programs into DESTDIR/PREFIX
	@runtime=$$(scripts/command-lua '$(LUA)') && $(MAKE) --no-print-directory LUA="$$runtime" install-module install-command

install-module: all ## install the module and the gateway only
	install -d '$(DESTDIR)$(INST_LIBDIR)' $(sort $(foreach file,$(MODULE_FILES),'$(DESTDIR)$(INST_LUADIR)/$(dir $(file))'))
	install -m 755 $(MODULE) '$(DESTDIR)$(INST_LIBDIR)/icptoken.so'
	for file in $(MODULE_FILES); do install -m 644 "lua/$$file" '$(DESTDIR)$(INST_LUADIR)'/"$$file" || exit; done

# The programs find their modules in the installation directories, whatever the interpreter's own path is.
PROGRAM_PATHS = package.path = "$(INST_LUADIR)/?.lua;" .. package.path \
  package.cpath = "$(INST_LIBDIR)/?.so;" .. package.cpath

install-command:
	install -d '$(DESTDIR)$(PREFIX)/bin' $(sort $(foreach file,$(COMMAND_FILES),'$(DESTDIR)$(INST_LUADIR)/$(dir $(file))') \
	  $(foreach file,$(SHARE_FILES),'$(DESTDIR)$(PREFIX)/share/$(dir $(file))'))
	for file in $(COMMAND_FILES); do install -m 644 "lua/$$file" '$(DESTDIR)$(INST_LUADIR)'/"$$file" || exit; done
	for file in $(SHARE_FILES); do install -m 644 "share/$$file" '$(DESTDIR)$(PREFIX)'/share/"$$file" || exit; done
	for program in $(PROGRAMS); do \
	  { echo "#!$$(command -v '$(LUA)')"; echo '$(PROGRAM_PATHS)'; tail -n +2 "bin/$$program"; } \
	    >'$(DESTDIR)$(PREFIX)/bin'/"$$program" && chmod 755 '$(DESTDIR)$(PREFIX)/bin'/"$$program" || exit; \
	done

uninstall: uninstall-module ## remove what install has installed
	@runtime=$$(scripts/command-lua '$(LUA)') && $(MAKE) --no-print-directory LUA="$$runtime" uninstall-module
	rm -f $(foreach program,$(PROGRAMS),'$(DESTDIR)$(PREFIX)/bin/$(program)') \
	  $(foreach file,$(SHARE_FILES),'$(DESTDIR)$(PREFIX)/share/$(file)')

uninstall-module:
	rm -f '$(DESTDIR)$(INST_LIBDIR)/icptoken.so'
	rm -rf '$(DESTDIR)$(INST_LUADIR)/icptoken'

command-docs: ## write the manual pages, the completions and the rockspecs of the programs
	@scripts/command-lua '$(LUA)' >/dev/null && $$(scripts/command-lua '$(LUA)') scripts/command-docs
	@scripts/cli-rockspecs

clean: ## remove build/
	rm -rf build

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 20

.PHONY: all for-specs setup demo run-demo demo-gateway run-demo-gateway demo-fleet run-demo-fleet stub test test-deep \
  test-on spec asan valgrind valgrind-gateway fuzz lint format picture pictures bench bench-all bench-gateway \
  bench-attacks bench-command bench-fleet bench-guard bench-pictures install install-module install-command uninstall \
  uninstall-module command-docs clean help
