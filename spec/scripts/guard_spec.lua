-- bench/guard in a copy of the tree, with a budget of its own for the versions that are installed here.

local files = require "support.files"
local scripts = require "support.scripts"

describe("bench/guard", function()
  local tree

  setup(function()
    tree = scripts.shell "mktemp -d"
    scripts.shell(("tar --exclude=./build --exclude=./.git -cf - . | tar -C '%s' -xf -"):format(tree))
  end)
  teardown(function() scripts.shell(("rm -rf '%s'"):format(tree)) end)

  -- Returns the exit status and what was printed.
  local function guard(...)
    return scripts.run(tree .. "/output", { tree .. "/bench/guard", ... })
  end

  -- Makes icptoken.challenge slower, in the code of the copy.
  local function slow_down()
    local path = tree .. "/lua_icptoken.c"
    local text = files.read(path)
    local slower, count = text:gsub("(static int door_challenge%(lua_State %*L%) {\n)",
      "%1  for (volatile int i = 0; i < 400; i++) {\n  }\n")
    assert.equal(1, count)
    files.write(path, slower)
  end

  it("fails when a call takes more instructions than its budget allows #deep", function()
    local status, output = guard("--write", "challenge")
    assert.equal(0, status, output)
    status, output = guard "challenge"
    assert.equal(0, status, output)
    assert.matches("instructions, budget +%d+: [+-][0-4]%.%d %%", output)
    slow_down()
    status, output = guard "challenge"
    assert.equal(1, status, output)
    assert.matches("more than 5 %% above the budget: challenge", output)
  end)

  it("says that it compared nothing if there is no budget for these versions #deep", function()
    files.write(tree .. "/bench/budgets", "# none\n")
    local status, output = guard "challenge"
    assert.equal(0, status, output)
    assert.matches("note: bench/budgets has no budgets for ", output)
  end)

  it("rejects a call that it does not know", function()
    local status, output = guard "unknown"
    assert.equal(2, status, output)
    assert.matches("usage: bench/guard", output)
  end)
end)
