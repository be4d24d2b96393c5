-- The shell examples in the documentation. Each is run unchanged, or listed here with the place where it is run.

local docs = require "support.docs"
local files = require "support.files"
local shell = require "support.shell"

local run_shell = shell.run

describe("an example for the shell", function()
  -- Examples that are not run here, and why.
  local ELSEWHERE = {
    ["make demo"] = "spec/examples_spec.lua runs examples/demo.lua, and make test-on the target",
    ["make test"] = "this is a part of it",
    ["sudo apt-get install gcc make pkg-config libcurl4-openssl-dev lua5.4 liblua5.4-dev lua-cjson"] =
      "it installs packages",
    ["sudo apt-get install lua-argparse lua-dkjson lua-posix openssl"] = "it installs packages",
    ["sudo apt-get install lua5.3 liblua5.3-dev"] = "it installs packages",
    ["make && sudo make install"] = "spec/command/install_spec.lua runs it",
    ["make demo-gateway"] = "spec/gateway/demo_spec.lua runs examples/nginx/demo.lua, and make test-on the target",
    ["luarocks make"] = "scripts/rock runs it, in make test-deep",
    ["make bench"] = "it takes minutes", ["make bench-gateway"] = "it takes minutes",
    ["make bench-attacks"] = "it takes minutes", ["make bench-pictures"] = "it takes minutes",
    ["make bench-command"] = "it takes minutes",
    ["make bench-all"] = "it takes half an hour", ["make bench-guard"] = "make test-deep runs bench/guard",
    ["bench/run fetch --only 'icptoken:*' --rounds 50"] = "it takes minutes",
    ["make spec LUA=lua5.4 SPEC=spec/fetch_spec.lua"] = "it is how this file is run",
    ["make spec LUA=luajit SPEC=spec/gateway/token_spec.lua"] = "it is how this file is run",
    ["make spec LUA=luajit SPEC=spec/gateway"] = "it is how this file is run",
    ["make spec LUA=lua5.3 SPEC=spec/command"] = "it is how this file is run",
    ["icptoken check"] = "spec/command/check_spec.lua runs it",
    ["icptoken check mycluster.icp:8500"] = "spec/command/check_spec.lua runs it",
    ["icptoken check mycluster.icp:8500/default/app"] = "spec/command/check_spec.lua runs it",
    ["icptoken check --json"] = "spec/command/check_spec.lua runs it",
  }
  local place
  before_each(function() place = run_shell "mktemp -d":gsub("\n", "") end)
  after_each(function() run_shell("rm -rf " .. place) end)

  -- A directory that looks like the user's, with the tree and a script in it.
  local function make_clone()
    run_shell(([[mkdir %s/tree %s/bin && ln -s "$PWD"/* %s/tree/]]):format(place, place, place))
    files.write(place .. "/tree/script.lua", [[print(require "icptoken"._NAME)]])
    files.write(place .. "/bin/sudo", '#!/bin/sh\nexec "$@"\n')
    run_shell(("chmod 755 %s/bin/sudo"):format(place))
  end

  -- Runs a block unchanged. Returns what it printed.
  local function run(block)
    make_clone()
    files.write(place .. "/block", block.text)
    local output = run_shell(("cd %s/tree && " .. docs.AS_USER .. "DESTDIR=%s/root PATH=%s/bin:$PATH "
      .. "sh -e ../block 2>&1; echo $?"):format(place, place, place))
    assert.equal("0", output:match "(%d+)\n$", output)
    return output
  end

  -- By their beginning: the checks of the results of those that are run here.
  local CHECKS = {
    ["make && LUA_CPATH"] = function(output) assert.matches("icptoken\n0\n$", output) end,
    ["make   "] = function()
      for _, path in ipairs { "/usr/local/lib/lua/5.4/icptoken.so", "/opt/gateway/lib/lua/5.1/icptoken.so",
        "/opt/gateway/share/lua/5.1/icptoken/gateway.lua" } do
        assert.is_true(files.exists(place .. "/root" .. path), path)
      end
    end,
  }
  -- Pages whose examples change or show the system's own nginx. Those that change nothing are run on broken gateways
  -- in spec/gateway/operations_spec.lua; here all are parsed.
  local OF_SYSTEM = { ["docs/operations.md"] = true, ["docs/fleet.md"] = true }
  -- These are run in spec/gateway/docs_spec.lua.
  local OF_GATEWAY = { "apt install", "curl -i" }

  local function begins(block, beginnings)
    for _, beginning in ipairs(beginnings) do
      if block.text:sub(1, #beginning) == beginning then return beginning end
    end
  end

  local ran, of_gateway = 0, 0
  for _, page in ipairs(docs.list_pages()) do
    for _, block in ipairs(docs.list_blocks(page, "sh")) do
      local beginning = begins(block, { "make && LUA_CPATH", "make   " })
      local name = ("%s:%d"):format(page, block.line)
      if beginning then
        ran = ran + 1
        it("runs: " .. name, function() CHECKS[beginning](run(block)) end)
      elseif OF_SYSTEM[page] then
        it("is parsed by the shell: " .. name, function()
          files.write(place .. "/block", block.text)
          assert.equal("0\n", run_shell(("sh -n %s/block 2>&1; echo $?"):format(place)))
        end)
      elseif begins(block, OF_GATEWAY) then
        of_gateway = of_gateway + 1
      else
        it("is run elsewhere: " .. name, function()
          for line in block.text:gmatch "[^\n]+" do
            local command = line:gsub("%s+#.*$", "")
            if command == "bench/run --help" then
              assert.matches("^usage: bench/run", run_shell(command))
            else
              assert.is_string(ELSEWHERE[command], command .. " is not run")
              ELSEWHERE[command] = "found"
            end
          end
        end)
      end
    end
  end

  it("is found in the documentation if it is listed here", function()
    assert.same({ 2, 3 }, { ran, of_gateway })
    for command, state in pairs(ELSEWHERE) do assert.equal("found", state, command .. " is in no document") end
  end)
end)
