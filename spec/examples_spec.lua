-- The examples run unchanged, succeed, and print what they promise and no token.
local interpreter = require "support.interpreter"

local JWT = "eyJ[%w_-]+%.[%w_-]+%.[%w_-]+"

local function run(name)
  local succeeded, status, output = interpreter.run { script = "examples/" .. name .. ".lua", timeout = 120 }
  assert.is_true(succeeded, ("exit status %s: %s"):format(tostring(status), output))
  assert.not_matches(JWT, output)
  return output
end

describe("the example demo.lua", function()
  it("prints a token, the content of its JWT, and the timings", function()
    local output = run "demo"
    assert.matches("listens at https://localhost:%d+", output)
    assert.matches("expires_in +1800\n", output)
    assert.matches("token +eyJ%S+%.%.%. %(%d+ characters%)", output)
    assert.matches("expires_at +%d+  %(%d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d UTC%)", output)
    assert.matches("aud +token%-service", output)
    assert.matches("name +default/app", output)
    assert.matches("alg +RS256", output)
    for _, name in ipairs { "namelookup", "connect", "appconnect", "starttransfer", "total" } do
      assert.matches("\n  " .. name .. " +%d+%.%d%d%d%d%d%d", output)
    end
    assert.matches("\n$ icptoken token default/app | icptoken verify ", output, 1, true)
    local has_libraries = pcall(require, "argparse") and pcall(require, "dkjson") and pcall(require, "openssl")
    if not has_libraries then return end
    assert.matches("A registry with this certificate would accept the token for repository:default/app:pull.\n", output,
      1, true)
  end)
end)

describe("the example pull_many.lua", function()
  it("prints 200 repositories in order, each with a token of its own", function()
    local output = run "pull_many"
    local rows, known = 0, {}
    for team, number, jti in output:gmatch "team%-(%d)/app%-(%d%d%d) +%d%d:%d%d:%d%d +(%S+)\n" do
      rows = rows + 1
      assert.equal(rows, tonumber(number))
      assert.equal((rows - 1) % 7 + 1, tonumber(team))
      assert.equal(8, #jti)
      assert.is_nil(known[jti])
      known[jti] = true
    end
    assert.equal(200, rows)
    assert.matches("^repository +expires %(UTC%) +jti\n", output)
    assert.matches("200 of 200 tokens, over 1 connection%(s%)", output)
  end)
end)
