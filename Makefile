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

# What the module needs, whatever CFLAGS says. SANITIZE=1 builds for AddressSanitizer and UBSan.
ifdef SANITIZE
BUILD := build/$(RUNTIME)-asan
CHECKS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else
BUILD := build/$(RUNTIME)
CHECKS := $(if $(filter -O1 -O2 -O3 -Os,$(CFLAGS)),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif
# _FILE_OFFSET_BITS and _TIME_BITS: 64 bits for both on 32-bit machines, where the C library has them. Neither off_t nor
# time_t is in anything that the module shares with libcurl or Lua.
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
LUA_FILES := $(patsubst lua/%,%,$(wildcard lua/icptoken/*.lua lua/icptoken/*/*.lua))
RUN = LUA_PATH='lua/?.lua;;' LUA_CPATH='$(BUILD)/?.so;;'

all: $(MODULE) ## build the module for $(LUA) in build/

$(MODULE): $(OBJECTS)
	$(CC) $(MODULE_LDFLAGS) $(LDFLAGS) -o $@ $^ $(CURL_LIBS)

$(BUILD)/testkit.so: $(BUILD)/spec/support/testkit.o
	$(CC) $(MODULE_LDFLAGS) $(LDFLAGS) -o $@ $^ $(CURL_LIBS) -ldl

PRELOADS := build/slow_resolver.so build/clock_shift.so build/moved_store.so

$(PRELOADS): build/%.so: spec/support/%.c
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE -fPIC -shared -Wall -Wextra $(CFLAGS) -o $@ $< -ldl

$(BUILD)/%.o: %.c Makefile
	@[ -n '$(VERSION)' ] || { echo '$(LUA) cannot be run: install it, or name another with LUA=' >&2; exit 1; }
	@mkdir -p $(@D)
	$(CC) $(MODULE_CFLAGS) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

-include $(OBJECTS:.o=.d) $(BUILD)/spec/support/testkit.d

for-specs: $(MODULE) $(BUILD)/testkit.so $(PRELOADS)

setup: ## install what the build, the demo and the tests need (Debian and its kin)
	@scripts/setup test

demo: ## get a token from the fake ICP, starting from nothing
	@scripts/setup demo
	@echo 'building icptoken'
	@$(MAKE) --no-print-directory -s run-demo

run-demo: all
	@$(RUN) $(LUA) examples/demo.lua

demo-gateway: ## an image through nginx with the hook, from and to a real registry
	@scripts/setup demo-gateway
	@echo 'building icptoken'
	@$(MAKE) --no-print-directory -s LUA=luajit run-demo-gateway

run-demo-gateway: all $(BUILD)/testkit.so
	@LUA_PATH='lua/?.lua;spec/?.lua;;' LUA_CPATH='$(BUILD)/?.so;;' luajit examples/nginx/demo.lua

stub: ## run the fake ICP over HTTPS until Ctrl-C; STUB="--dir DIR --port N" keeps its files in DIR
	@scripts/setup demo
	@luajit stub/icp.lua $(STUB)

test: ## what a change waits for: the specs on all runtimes, the gateway's, lint
	@scripts/setup test
	@scripts/test

test-deep: ## what takes long: sanitizers, valgrind, fuzzing, the rock, other architectures
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

valgrind-gateway: ## a short load on nginx with the hook, under valgrind
	@scripts/setup test
	@scripts/valgrind-gateway

fuzz: ## fuzz each parser for FUZZ_SECONDS
	@scripts/fuzz $(FUZZ_SECONDS)

lint: ## compilers, clang-tidy, cppcheck, clang-format, luacheck, shellcheck, luarocks lint
	@scripts/lint

format: ## put the C sources into the project's format
	@clang-format -i $$(scripts/list-c --headers)

bench: ## compare with bare libcurl and with other Lua clients
	@scripts/setup bench
	@bench/run

bench-gateway: ## the hook beside plain nginx, and cold fetches a second
	@scripts/setup bench
	@bench/gateway/run

bench-attacks: ## what others notice of attacks on the gateway, and of overloads
	@scripts/setup bench
	@$(MAKE) --no-print-directory --silent for-specs LUA=luajit
	@luajit bench/gateway/attacks.lua

install: all ## install into PREFIX, below DESTDIR
	install -d '$(DESTDIR)$(INST_LIBDIR)' $(sort $(foreach file,$(LUA_FILES),'$(DESTDIR)$(INST_LUADIR)/$(dir $(file))'))
	install -m 755 $(MODULE) '$(DESTDIR)$(INST_LIBDIR)/icptoken.so'
	for file in $(LUA_FILES); do install -m 644 "lua/$$file" '$(DESTDIR)$(INST_LUADIR)'/"$$file" || exit; done

uninstall: ## remove what install put there
	rm -f '$(DESTDIR)$(INST_LIBDIR)/icptoken.so'
	rm -rf '$(DESTDIR)$(INST_LUADIR)/icptoken'

clean: ## remove build/, and what LuaRocks built here
	rm -rf build
	rm -f icptoken.so lua_icptoken.o src/*.o

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 20

.PHONY: all for-specs setup demo run-demo demo-gateway run-demo-gateway stub test test-deep test-on spec asan valgrind \
  valgrind-gateway fuzz lint format bench bench-gateway bench-attacks install uninstall clean help
