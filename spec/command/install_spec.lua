-- The files that are installed and removed, and the manual pages and completions.

local command = require "support.command"
local testkit = require "testkit"

local bed

setup(function() bed = command.open() end)
teardown(function() bed:close() end)
before_each(function() bed:clear() end)

local function runtime_path()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  return arg[first]
end

local function make(target)
  return command.shell(("make --no-print-directory -s %s LUA='%s' PREFIX='%s' 2>&1"):format(target, runtime_path(),
    bed:path "prefix"))
end

local function list_files(below)
  return command.shell(("find '%s' -type f 2>/dev/null | sed 's|^%s/||' | LC_ALL=C sort"):format(bed:path(below),
    bed:path(below)))
end

describe("make install", function()
  it("puts module, programs, pages and completions in place, and uninstall removes them", function()
    assert.equal("", make "install")
    local installed = list_files "prefix"
    for _, name in ipairs { "bin/icptoken\n", "bin/docker-credential-icptoken\n", "/icptoken.so\n",
      "/icptoken/gateway.lua\n", "/icptoken/cli.lua\n", "/icptoken/cli/session.lua\n", "/icptoken/command/token.lua\n",
      "share/man/man1/icptoken.1\n",
      "share/bash-completion/completions/icptoken\n", "share/zsh/site-functions/_icptoken\n" } do
      assert.matches(name, installed, 1, true)
    end
    -- each Lua file, and each of share/, and nothing else
    local expected = command.shell [[(cd lua && find icptoken -name '*.lua' | sed 's|^|share/lua/|'
      find ../share -type f | sed 's|^../||'; printf '%s\n' bin/icptoken bin/docker-credential-icptoken
      echo icptoken.so) | LC_ALL=C sort]]
    assert.equal(expected, command.shell(("printf '%%s' '%s' | sed 's|share/lua/5[^/]*|share/lua|; s|lib/lua/[^/]*/||' "
      .. "| LC_ALL=C sort -u"):format(installed)))
    -- the programs run from there, without the paths of this tree
    local words = { bed:path "prefix/bin/icptoken", "whoami", "--host", "a" }
    words.env = bed:environment { LUA_PATH = false, LUA_CPATH = false }
    words.stdin, words.stdout, words.stderr = "/dev/null", bed:path "out", bed:path "err"
    assert.same({ "exited", 1 }, { testkit.waitpid(assert(testkit.spawn(words)), 60) })
    assert.matches("nobody is logged in at a:8443", bed:read "err", 1, true)
    assert.equal("", make "uninstall")
    assert.equal("", list_files "prefix")
  end)

  it("can leave the programs out", function()
    assert.equal("", make "install-module")
    local installed = list_files "prefix"
    assert.matches("/icptoken/gateway.lua\n", installed, 1, true)
    assert.not_matches("/cli[./]", installed)
    assert.not_matches("/command", installed, 1, true)
    assert.not_matches("bin/", installed, 1, true)
  end)
end)

describe("the manual pages", function()
  it("agree with the descriptions of the commands", function()
    local cli = require "icptoken.cli"
    local options = require "icptoken.cli.options"
    local pages = require "icptoken.cli.pages"
    local read = require "support.files".read
    assert.equal(pages.render_program(cli.commands, options.make_parser(cli.commands)),
      read "share/man/man1/icptoken.1")
    assert.equal(pages.render_helper(), read "share/man/man1/docker-credential-icptoken.1")
  end)

  it("are displayed without warnings, if man is installed", function()
    if command.shell "command -v man" == "" then return end
    for _, page in ipairs { "icptoken", "docker-credential-icptoken" } do
      local output = command.shell(("MANWIDTH=80 man --warnings -l share/man/man1/%s.1 2>&1 >/dev/null"):format(page))
      assert.equal("", output)
      local shown = command.shell(("MANWIDTH=80 man -l share/man/man1/%s.1 2>/dev/null"):format(page))
      assert.matches("EXIT STATUS", shown, 1, true)
    end
  end)
end)

describe("the completions", function()
  it("contain every command", function()
    local read = require "support.files".read
    for _, path in ipairs { "share/bash-completion/completions/icptoken", "share/zsh/site-functions/_icptoken",
      "share/fish/vendor_completions.d/icptoken.fish" } do
      local text = read(path)
      for _, row in ipairs(require "icptoken.cli".commands) do assert.matches(row[1], text, 1, true) end
    end
  end)

  it("complete in bash", function()
    local shown = command.shell [[bash -c '. share/bash-completion/completions/icptoken
      COMP_WORDS=(icptoken token --pu); COMP_CWORD=2; COMP_LINE="icptoken token --pu"; COMP_POINT=19
      compopt() { :; }; _icptoken; echo "${COMPREPLY[@]}"' 2>&1]]
    assert.equal("--push\n", shown)
  end)

  it("complete in zsh, if it is installed", function()
    if command.shell "command -v zsh" == "" then return pending "zsh is not installed" end
    local shown = command.shell [[zsh -fc 'fpath=("$PWD/share/zsh/site-functions" $fpath)
      autoload -Uz compinit && compinit -u -D && autoload +X _icptoken && print $_comps[icptoken]' 2>&1]]
    assert.equal("_icptoken\n", shown)
  end)

  it("complete in fish, if it is installed", function()
    if command.shell "command -v fish" == "" then return pending "fish is not installed" end
    local shown = command.shell [[HOME=/nonexistent fish --no-config -c '
      source share/fish/vendor_completions.d/icptoken.fish; complete -C "icptoken veri"
      complete -C "icptoken token --pus"' 2>&1]]
    assert.equal("verify\n--push\tthe token may push, too\n", shown)
  end)
end)
